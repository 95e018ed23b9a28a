"""How virtual boards show themselves on USB: configfs gadgets on the ports of dummy_hcd.

Each port is a bus of its own, so that what is plugged into it has the same busid for ever.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_GADGETS = Path("/sys/kernel/config/usb_gadget")
_USBMON = Path("/sys/kernel/debug/usb/usbmon")


@dataclass(frozen=True)
class Identity:
    """What a device says of itself."""

    vendor: int
    product: int
    manufacturer: str
    model: str
    serial: str


def load_modules(ports: int, *, high_speed: bool) -> None:
    """Make so many empty ports of high speed (480 Mbit/s), or of full speed (12), as a Pico has."""
    modules = ("usbmon", "libcomposite", "usb_f_acm", "usb_f_mass_storage", "cdc-acm", "sd_mod")
    for module in modules:
        subprocess.run(["modprobe", module], check=True)
    # As it is deployed: by default a second passes before a new disk can be used.
    subprocess.run(["modprobe", "usb-storage", "delay_use=0"], check=True)
    speed = f"is_high_speed={'Y' if high_speed else 'N'}"
    subprocess.run(["modprobe", "dummy_hcd", f"num={ports}", speed], check=True)
    for kind, where in (("configfs", "/sys/kernel/config"), ("debugfs", "/sys/kernel/debug")):
        if not os.path.ismount(where):
            subprocess.run(["mount", "-t", kind, kind, where], check=True)


class Port:
    """One that things are plugged into, numbered from 0."""

    def __init__(self, number: int) -> None:
        self.number = number
        (root,) = Path(f"/sys/devices/platform/dummy_hcd.{number}").glob("usb[0-9]*")
        self.bus = int(root.name.removeprefix("usb"))
        self.busid = f"{self.bus}-1"
        self.udc = f"dummy_udc.{number}"
        self.monitor = _USBMON / f"{self.bus}u"


class Gadget:
    """A device with one function; on the bus between `connect` and `disconnect`."""

    def __init__(self, name: str, function: str, settings: dict[str, str]) -> None:
        self._folder = _GADGETS / name
        self.function = self._folder / "functions" / function
        self._strings = self._folder / "strings" / "0x409"
        configuration = self._folder / "configs" / "c.1"
        for folder in (self._folder, self._strings, configuration, self.function):
            folder.mkdir()
        (configuration / "MaxPower").write_text("250")
        for setting, value in settings.items():
            (self.function / setting).write_text(value)
        (configuration / function).symlink_to(self.function)

    def connect(self, port: Port, identity: Identity) -> None:
        """Plug it in as what it says it is."""
        (self._folder / "idVendor").write_text(f"{identity.vendor:#06x}")
        (self._folder / "idProduct").write_text(f"{identity.product:#06x}")
        (self._folder / "bcdDevice").write_text("0x0100")
        (self._strings / "manufacturer").write_text(identity.manufacturer)
        (self._strings / "product").write_text(identity.model)
        (self._strings / "serialnumber").write_text(identity.serial)
        (self._folder / "UDC").write_text(port.udc)

    def disconnect(self) -> None:
        """Pull it out."""
        (self._folder / "UDC").write_text("\n")


class SerialGadget(Gadget):
    """With a console (CDC-ACM), of which `tty` is the device's own end."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "acm.console", {})
        self.tty = f"/dev/ttyGS{(self.function / 'port_num').read_text().strip()}"


class DiskGadget(Gadget):
    """With a disk (mass storage)."""

    def __init__(self, name: str) -> None:
        # Vendor, model and revision, in 8, 16 and 4 characters.
        inquiry = f"{'RPI':8}{'RP2':16}{'3':4}"
        super().__init__(
            name, "mass_storage.disk", {"lun.0/removable": "1", "lun.0/inquiry_string": inquiry}
        )

    def load(self, disk: Path | None) -> None:
        """Put a medium in, or none; the former is thrown out even where its host uses it."""
        (self.function / "lun.0" / "forced_eject").write_text("1")
        if disk is not None:
            (self.function / "lun.0" / "file").write_text(str(disk))
