"""What is plugged in at a place on the bus, as the kernel and udev describe it at one moment."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyudev

from icefarm_schemas import UsbDescription, UsbInterface

_DEVICES = Path("/sys/bus/usb/devices")
_IMPORTED = "/vhci_hcd"
"""In the path of a device that this machine has attached over USB/IP from another one."""

_SPEEDS = {"1.5": 1, "12": 2, "480": 3, "53.3-480": 4, "5000": 5, "10000": 6, "20000": 6}
"""The kernel's enum usb_device_speed (include/uapi/linux/usb/ch9.h), by Mbit/s."""

_DEVICE_DESCRIPTOR, _CONFIGURATION_DESCRIPTOR, _INTERFACE_DESCRIPTOR = 1, 2, 4
"""bDescriptorType (USB 2.0, table 9-5)."""


@dataclass(frozen=True)
class Interface:
    """What one interface is for (USB 2.0, table 9-12)."""

    number: int
    interface_class: int
    interface_subclass: int
    interface_protocol: int


@dataclass(frozen=True)
class Tty:
    """A serial port of the device; that of interface 0 is its firmware's console."""

    path: str
    interface: int


@dataclass(frozen=True)
class Disk:
    """A disk of the device; the label and file system are those of its first that has them."""

    path: str
    label: str | None
    filesystem: str | None


@dataclass(frozen=True)
class UsbDevice:
    """A snapshot; what USB/IP tells a client about a device is all in here."""

    busid: str
    """As in "1-1.2": the bus, then the port of each hub on the way to it."""
    syspath: str
    """Where sysfs has it, below /sys/devices."""
    vendor_id: int
    product_id: int
    model: str
    """udev's ID_MODEL: the product's name as the device says it, with _ for spaces."""
    serial: str | None
    """udev's ID_SERIAL_SHORT."""
    busnum: int
    devnum: int
    """Its number on the bus, another one after each re-enumeration."""
    speed: str
    """In Mbit/s, as sysfs writes it: 1.5, 12, 480, 5000, ..."""
    driver: str | None
    """`usb`, `usbip-host`, or none for a moment between the two."""
    ttys: tuple[Tty, ...]
    disks: tuple[Disk, ...]
    bcd_device: int
    device_class: int
    device_subclass: int
    device_protocol: int
    configuration_value: int
    configurations: int
    interfaces: tuple[Interface, ...]
    """Of its first configuration, also while it has no driver."""

    @property
    def ids(self) -> str:
        """As in "2e8a:0003"."""
        return f"{self.vendor_id:04x}:{self.product_id:04x}"

    def describe(self) -> UsbDescription:
        """What a host that imports it has to know."""
        return UsbDescription(
            busid=self.busid,
            busnum=self.busnum,
            devnum=self.devnum,
            speed=_SPEEDS.get(self.speed, 0),
            vendor=self.vendor_id,
            product=self.product_id,
            release=self.bcd_device,
            device_class=self.device_class,
            subclass=self.device_subclass,
            protocol=self.device_protocol,
            configuration=self.configuration_value,
            configurations=self.configurations,
            interfaces=tuple(
                UsbInterface(
                    interface_class=interface.interface_class,
                    subclass=interface.interface_subclass,
                    protocol=interface.interface_protocol,
                )
                for interface in self.interfaces
            ),
        )

    @property
    def console(self) -> str | None:
        """The path of its firmware's console."""
        return next((tty.path for tty in self.ttys if tty.interface == 0), None)

    def __str__(self) -> str:
        serial = f", serial number {self.serial}" if self.serial else ""
        return f"{self.model} ({self.ids}{serial})"


def read_device(context: pyudev.Context, busid: str) -> UsbDevice | None:
    """The device at a place on the bus.

    None where there is none, or none that udev knows by now; also for one that this machine has
    attached from elsewhere. Its ttys and disks are those that udev has finished with.

    Nothing of sysfs is read that waits for the device (as `serial` and `product` do, with its lock
    held during a reset), so that a device that hangs cannot hold up the caller.
    """
    try:
        found = pyudev.Devices.from_name(context, "usb", busid)
        if not found.is_initialized or _IMPORTED in found.sys_path:
            return None
        properties = found.properties
        here = Path(found.sys_path)
        descriptors = _Descriptors((here / "descriptors").read_bytes())
        return UsbDevice(
            busid=busid,
            syspath=found.sys_path,
            vendor_id=descriptors.vendor_id,
            product_id=descriptors.product_id,
            model=properties.get("ID_MODEL", ""),
            serial=properties.get("ID_SERIAL_SHORT"),
            busnum=int((here / "busnum").read_text()),
            devnum=int((here / "devnum").read_text()),
            speed=(here / "speed").read_text().strip(),
            driver=_driver(here),
            ttys=tuple(_ttys(context, here)),
            disks=tuple(_disks(context, here)),
            bcd_device=descriptors.bcd_device,
            device_class=descriptors.device_class,
            device_subclass=descriptors.device_subclass,
            device_protocol=descriptors.device_protocol,
            configuration_value=descriptors.configuration_value,
            configurations=descriptors.configurations,
            interfaces=descriptors.interfaces,
        )
    except (pyudev.DeviceNotFoundError, OSError, ValueError, struct.error):
        # It is not there, or went away while it was read.
        return None


def present(context: pyudev.Context) -> Iterator[str]:
    """The places on the bus where there is a device now, other than the computer's own hubs."""
    for device in context.list_devices(subsystem="usb", DEVTYPE="usb_device"):
        if not device.sys_name.startswith("usb"):
            yield device.sys_name


class _Descriptors:
    """The binary descriptors that the kernel read when the device was plugged in (USB 2.0, 9.6)."""

    def __init__(self, raw: bytes) -> None:
        fields = struct.unpack_from("<BBHBBBBHHHBBBB", raw)
        if fields[1] != _DEVICE_DESCRIPTOR:
            raise ValueError("it does not begin with a device descriptor")
        _, self.device_class, self.device_subclass, self.device_protocol = fields[2:6]
        self.vendor_id, self.product_id, self.bcd_device = fields[7:10]
        self.configurations = fields[13]
        self.configuration_value = 0
        self.interfaces: tuple[Interface, ...] = ()
        at = fields[0]
        first = True
        while at + 2 <= len(raw) and raw[at]:
            kind = raw[at + 1]
            if kind == _CONFIGURATION_DESCRIPTOR:
                if not first:
                    break
                first, self.configuration_value = False, raw[at + 5]
            # Not the alternate settings of an interface, which follow its first.
            elif kind == _INTERFACE_DESCRIPTOR and raw[at + 3] == 0:
                self.interfaces += (Interface(raw[at + 2], *raw[at + 5 : at + 8]),)
            at += raw[at]


def _driver(here: Path) -> str | None:
    try:
        return os.readlink(here / "driver").rpartition("/")[2]
    except FileNotFoundError:
        return None


def _ttys(context: pyudev.Context, here: Path) -> Iterator[Tty]:
    # cdc_acm puts its ttys under the interface itself, the drivers of serial converters deeper.
    for pattern in ("tty/tty*", "tty*/tty/tty*"):
        for path in sorted(here.glob(f"{here.name}:*/{pattern}")):
            tty = pyudev.Devices.from_name(context, "tty", path.name)
            if tty.is_initialized and tty.device_node:
                interface = next(p for p in path.parents if p.parent == here).name
                yield Tty(tty.device_node, int(interface.rpartition(".")[2]))


def _disks(context: pyudev.Context, here: Path) -> Iterator[Disk]:
    for path in sorted(here.glob(f"{here.name}:*/host*/target*/*/block/*")):
        parts = [
            pyudev.Devices.from_name(context, "block", name)
            for name in (path.name, *sorted(part.parent.name for part in path.glob("*/partition")))
        ]
        # A card reader without a card has no sectors.
        if not all(p.is_initialized for p in parts) or int((path / "size").read_text()) == 0:
            continue
        node = parts[0].device_node
        if node:
            yield Disk(
                node,
                next((p.properties["ID_FS_LABEL"] for p in parts if "ID_FS_LABEL" in p), None),
                next((p.properties["ID_FS_TYPE"] for p in parts if "ID_FS_TYPE" in p), None),
            )
