"""Plugging a USB device that is elsewhere into this machine, through Linux' vhci-hcd.

The kernel takes one end of a connected socket and speaks USB/IP on it. What is written and read
here is in the kernel's drivers/usb/usbip/vhci_sysfs.c: the files of all virtual controllers are in
the directory of the first, and the numbers of ports go on from one controller to the next.
"""

import asyncio
import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from icefarm.errors import LimitExceededError, NotSupportedError
from icefarm_schemas.streams import UsbDescription

_CONTROLLER = Path("/sys/devices/platform/vhci_hcd.0")
_DEVICES = Path("/sys/bus/usb/devices")

_FREE = 4
"""VDEV_ST_NULL of enum usbip_device_status (drivers/usb/usbip/usbip_common.h)."""
_ATTACHED = 5
"""VDEV_ST_NOTASSIGNED."""
_IN_USE = 6
"""VDEV_ST_USED: the device has got its address."""
_SUPER_SPEED = 5
"""Of enum usb_device_speed; a faster device is attached as one of these."""

_ATTEMPTS = 20
_LOOK = 0.05
_PATIENCE = 15.0
"""Seconds until a device without a tty or a disk is taken for one that has none."""
_SETTLING = 8.0
"""Seconds that drivers may take once the device has a configuration; usb-storage waits for one."""


@dataclass(frozen=True)
class Port:
    """A port of a virtual controller, as a line of a `status` file tells it.

    `socket` is the number that the descriptor had in the process that attached it. It is the port
    at `place`, from 0, of one of the two hubs of a `controller`.
    """

    hub: str
    number: int
    status: int
    device_id: int
    socket: int
    busid: str
    controller: int = 0
    place: int = 0

    @property
    def is_free(self) -> bool:
        """Whether nothing is plugged into it."""
        return self.status == _FREE

    @property
    def is_fast(self) -> bool:
        """Whether it is one for SuperSpeed devices, which take no others."""
        return self.hub == "ss"


def parse_ports(text: str, controller: int = 0) -> Iterator[Port]:
    """The ports in a status file: a headline, then `hub port sta spd dev sockfd local_busid`."""
    places: Counter[str] = Counter()
    for line in text.splitlines()[1:]:
        hub, number, status, _, device, socket, busid = line.split()
        yield Port(
            hub,
            int(number),
            int(status),
            int(device, 16),
            int(socket),
            busid,
            controller,
            places[hub],
        )
        places[hub] += 1


def list_ports() -> list[Port]:
    """All ports of this machine.

    Raises:
        NotSupportedError: it has none.
    """
    try:
        # Named `status`, `status.1`, `status.2`, ...
        files = {int(f.suffix[1:] or 0): f for f in _CONTROLLER.glob("status*")}
        ports = [port for n in sorted(files) for port in parse_ports(files[n].read_text(), n)]
    except OSError as error:
        raise NotSupportedError(f"the ports of vhci-hcd cannot be read: {error}") from error
    if not ports:
        raise NotSupportedError(_MISSING)
    return ports


_INSTEAD = "or let any USB/IP client import the board: `icefarm attach --server`"
_MISSING = (
    "the kernel module vhci-hcd is not loaded, so nothing can be plugged into this machine; "
    f"load it with `sudo modprobe vhci-hcd`, {_INSTEAD}"
)


def is_loaded() -> bool:
    """Whether the module is there, so that ports are."""
    return (_CONTROLLER / "attach").exists()


async def is_loadable() -> bool:
    """Whether the kernel has the module; it is not loaded by this."""
    try:
        modprobe = await asyncio.create_subprocess_exec(
            *("modprobe", "--dry-run", "--quiet", "vhci-hcd"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return False
    return await modprobe.wait() == 0


async def prepare() -> None:
    """See to it that devices can be attached; the module is loaded when it is not.

    Raises:
        NotSupportedError: they cannot; the message says what to do.
    """
    if sys.platform != "linux":
        raise NotSupportedError(
            f"boards can only be plugged into Linux by this command; {_INSTEAD}, "
            "or use `icefarm console`"
        )
    if os.geteuid() != 0:
        raise NotSupportedError(
            f"only root may plug a device into this machine; run it with sudo, {_INSTEAD}"
        )
    if not is_loaded():
        try:
            modprobe = await asyncio.create_subprocess_exec(
                "modprobe",
                "vhci-hcd",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise NotSupportedError(f"{_MISSING} (modprobe: {error})") from error
        _, words = await modprobe.communicate()
        if modprobe.returncode != 0 or not is_loaded():
            raise NotSupportedError(f"{_MISSING} ({words.decode(errors='replace').strip()})")


def attach(descriptor: int, usb: UsbDescription) -> Port:
    """Plug a device into a free port; the kernel has the socket too from then on.

    Raises:
        NotSupportedError: the kernel refuses.
        LimitExceededError: no port is free.
    """
    device_id = usb.busnum << 16 | usb.devnum
    speed = min(usb.speed, _SUPER_SPEED)
    for _ in range(_ATTEMPTS):
        port = _find_free(is_fast=speed == _SUPER_SPEED)
        try:
            _write("attach", f"{port.number} {descriptor} {device_id} {speed}")
        except OSError as error:
            if error.errno == errno.EBUSY:
                continue  # Another process was faster.
            raise NotSupportedError(
                f"the kernel does not take the device at port {port.number}: {error}"
            ) from error
        return replace(port, status=_ATTACHED, device_id=device_id, socket=descriptor)
    raise LimitExceededError("other processes take each free USB/IP port; try again")


def _find_free(*, is_fast: bool) -> Port:
    ports = [port for port in list_ports() if port.is_fast == is_fast]
    for port in ports:
        if port.is_free and not _is_remembered(port):
            return port
    raise LimitExceededError(
        f"all {len(ports)} ports for such a device are in use; `usbip port` lists them, "
        "and `icefarm detach --all` ends the attachments of this machine"
    )


def _is_remembered(port: Port) -> bool:
    """Whether the kernel has not yet dealt with the unplugging of what was there before.

    A device that is plugged in then never appears, and what the old one was used for hangs: the
    kernel asks the new connection to cancel what the old one was asked for.
    """
    return any(
        (_DEVICES / f"{bus.name.removeprefix('usb')}-{port.place + 1}").exists()
        for bus in _CONTROLLER.with_name(f"vhci_hcd.{port.controller}").glob("usb*")
    )


def _write(file: str, text: str) -> None:
    descriptor = os.open(_CONTROLLER / file, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def find(attached: Port) -> Port | None:
    """The port as it is now; None when what was attached is not there any more."""
    ports = {port.number: port for port in list_ports()}
    port = ports.get(attached.number)
    if port is None or port.is_free:
        return None
    # Only of a device that has its address does the kernel show more.
    same = (port.device_id, port.socket) == (attached.device_id, attached.socket)
    return port if same or port.status == _ATTACHED else None


def detach(attached: Port) -> bool:
    """Unplug what was attached, unless the kernel has done so; whether there was something.

    Programs that have its tty open get an error from then on.

    Raises:
        OSError: the kernel refuses.
    """
    if find(attached) is None:
        return False
    try:
        _write("detach", str(attached.number))
    except OSError:
        if find(attached) is None:
            return False
        raise
    return True


@dataclass(frozen=True)
class Nodes:
    """What a device has brought into /dev."""

    ttys: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()


def list_nodes(attached: Port) -> Nodes:
    """The ttys and disks of what is attached, as far as they are there.

    No attribute of the device is read. While the kernel talks to a device, it holds a lock that
    reading some of them (`uevent`, `bConfigurationValue`) waits for; and what the kernel says is
    carried by this process.
    """
    port = find(attached)
    if port is None or port.status != _IN_USE:
        return Nodes()
    found: dict[str, list[str]] = {"tty": [], "block": []}
    # Class devices have the file `dev`; sysfs is a tree where links are not followed.
    for directory, _, files in os.walk((_DEVICES / port.busid).resolve()):
        if "dev" in files:
            kind = os.path.basename(os.path.realpath(os.path.join(directory, "subsystem")))
            # A slash in a device's name is an exclamation mark in sysfs.
            path = Path("/dev", os.path.basename(directory).replace("!", "/"))
            if kind in found and path.exists():
                found[kind].append(str(path))
    return Nodes(tuple(sorted(found["tty"])), tuple(sorted(found["block"])))


async def wait_for_nodes(attached: Port) -> Nodes:
    """What the device brings, when there is something, or when nothing more is to be expected."""
    began, configured = time.monotonic(), None
    while True:
        # In a thread: the kernel may let a look at a device wait until that has answered, and the
        # answer comes by this process's event loop.
        nodes, drivers = await asyncio.to_thread(_look_at, attached)
        now = time.monotonic()
        if configured is None and drivers:
            configured = now
        if (nodes.ttys or nodes.disks) and all(drivers):
            return nodes
        if now - began > _PATIENCE or (configured is not None and now - configured > _SETTLING):
            return nodes
        await asyncio.sleep(_LOOK)


def _look_at(attached: Port) -> tuple[Nodes, list[bool]]:
    return list_nodes(attached), _list_drivers(attached)


def _list_drivers(attached: Port) -> list[bool]:
    """Whether each interface of the device has a driver; it has none before its configuration."""
    port = find(attached)
    if port is None or port.status != _IN_USE:
        return []
    return [(place / "driver").exists() for place in _DEVICES.glob(f"{port.busid}:*")]
