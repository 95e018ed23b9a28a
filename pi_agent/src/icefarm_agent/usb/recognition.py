"""Which device is a board of ours, and in which of its two lives."""

import unicodedata
from dataclasses import dataclass

from icefarm_agent.usb.configuration import Configuration, Product
from icefarm_agent.usb.device import UsbDevice
from icefarm_schemas import MAX_NAME_LENGTH, check_name


@dataclass(frozen=True)
class Running:
    """A board that runs a firmware of which it is known."""

    product: Product
    serial: str


@dataclass(frozen=True)
class InBootloader:
    """A board in its bootloader, which does not say which one it is.

    The serial number there is shared by all RP2040.
    """

    product: Product


def recognise(
    configuration: Configuration, device: UsbDevice | None
) -> Running | InBootloader | None:
    """What a device is to us; None for what is not ours, or is to be left alone."""
    if device is None:
        return None
    for product in configuration.products:
        if device.ids in product.bootloaders:
            return InBootloader(product)
    if device.serial is None or device.serial in configuration.ignored:
        return None
    for product in configuration.products:
        if device.vendor_id in product.vendors and device.model in product.models:
            return Running(product, device.serial)
    return None


def board_name(serial: str) -> str:
    """A serial number as the name of a board, with what topics forbid replaced by -.

    Raises:
        ValueError: nothing of it can be a name.
    """
    kept = "".join("-" if _forbidden(character) else character for character in serial)
    return check_name(kept.strip().lstrip("$")[:MAX_NAME_LENGTH].strip())


def _forbidden(character: str) -> bool:
    return character in "/+#" or unicodedata.category(character) in {"Cc", "Cs", "Cn", "Zl", "Zp"}
