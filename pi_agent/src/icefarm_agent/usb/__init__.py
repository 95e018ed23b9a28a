"""Boards that are plugged in: found, flashed, and handed to the kernel's USB/IP.

`Discovery` finds them and makes a `UsbBoard` of each; a `UsbPort` is the place where one is plugged
in; `usbip_host` gives what is at a port to a holder far away.
"""

from icefarm_agent.usb.board import UsbBoard
from icefarm_agent.usb.configuration import Configuration, ConfigurationError
from icefarm_agent.usb.device import Disk, Interface, Tty, UsbDevice
from icefarm_agent.usb.discovery import Discovery
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.uf2 import FirmwareError, Uf2, parse_uf2
from icefarm_agent.usb.usbip_host import Status

__all__ = [
    "Configuration",
    "ConfigurationError",
    "Discovery",
    "Disk",
    "FirmwareError",
    "Interface",
    "Status",
    "Tty",
    "Uf2",
    "UsbBoard",
    "UsbDevice",
    "UsbPort",
    "parse_uf2",
]
