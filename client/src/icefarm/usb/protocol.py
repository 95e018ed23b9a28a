"""The messages with which a USB/IP client asks for devices (Documentation/usb/usbip_protocol.rst).

What follows a good import are the commands of the device itself, which pass through unread.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from icefarm_schemas.streams import UsbDescription

VERSION = 0x0111
REQUEST_LIST, REPLY_LIST = 0x8005, 0x0005
REQUEST_IMPORT, REPLY_IMPORT = 0x8003, 0x0003

HEADER = struct.Struct(">HHI")
"""Version, code and status."""
BUSID_BYTES = 32

_DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")
_INTERFACE = struct.Struct(">BBBx")


class Status(IntEnum):
    """As tools/usb/usbip of the kernel's sources numbers them (enum in usbip_common.h)."""

    OK = 0
    BUSY = 2
    ERROR = 3
    NO_DEVICE = 4


@dataclass(frozen=True)
class Offered:
    """A device as a client sees it: with a bus id of ours, since those of agents may be equal."""

    path: str
    busid: str
    usb: UsbDescription

    def pack(self) -> bytes:
        """Its 312 bytes in both replies."""
        usb = self.usb
        return _DEVICE.pack(
            _text(self.path, 256),
            _text(self.busid, BUSID_BYTES),
            usb.busnum,
            usb.devnum,
            usb.speed,
            usb.vendor,
            usb.product,
            usb.release,
            usb.device_class,
            usb.subclass,
            usb.protocol,
            usb.configuration,
            usb.configurations,
            len(usb.interfaces),
        )


def _text(text: str, size: int) -> bytes:
    """Cut to what leaves room for the NUL at its end."""
    return text.encode()[: size - 1]


def pack_list(devices: Sequence[Offered]) -> bytes:
    """OP_REP_DEVLIST."""
    reply = bytearray(HEADER.pack(VERSION, REPLY_LIST, Status.OK))
    reply += len(devices).to_bytes(4, "big")
    for device in devices:
        reply += device.pack()
        for interface in device.usb.interfaces:
            reply += _INTERFACE.pack(
                interface.interface_class, interface.subclass, interface.protocol
            )
    return bytes(reply)


def pack_import(device: Offered) -> bytes:
    """OP_REP_IMPORT of a device that the client has from now on."""
    return HEADER.pack(VERSION, REPLY_IMPORT, Status.OK) + device.pack()


def pack_refusal(status: Status) -> bytes:
    """OP_REP_IMPORT without a device."""
    return HEADER.pack(VERSION, REPLY_IMPORT, status)


def parse_busid(field: bytes) -> str:
    """The bus id in an OP_REQ_IMPORT; what is no text is none that we have."""
    return field.split(b"\0", 1)[0].decode("ascii", errors="replace")
