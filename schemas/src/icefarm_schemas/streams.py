"""Streams: the bytes of a device's USB or console, numbered, with a credit window.

A frame is what one message on a stream's topic holds: a header of 16 bytes, big-endian, and data.

    stream    4 bytes  which stream, so that a late frame of an earlier one is told apart
    number    4 bytes  0, 1, 2, ... in each direction; a gap or a repetition ends the stream
    consumed  8 bytes  how many bytes of data the sender of this frame has passed on so far

A side sends data only while less than `WINDOW` bytes of it are not consumed yet; so the slowest on
the way sets the pace, and nothing collects at the broker. A frame without data only gives credit.
Frames are sent with QoS 0, for the number shows what the broker would otherwise ensure.
"""

import struct
from typing import NamedTuple, Self

from pydantic import Field

from icefarm_schemas.message import Message
from icefarm_schemas.names import Name

WINDOW = 262_144
"""Bytes of data that may be on their way in one direction."""
MAX_DATA = 65_536
"""Bytes of data in one frame."""

_HEADER = struct.Struct(">4sIQ")
_NUMBERS = 1 << 32


class FrameError(ValueError):
    """Bytes that are no frame."""


class Frame(NamedTuple):
    """One frame; see the module."""

    stream: bytes
    number: int
    consumed: int
    data: bytes

    def pack(self) -> bytes:
        """As it is on the wire; numbers start again after 2^32."""
        return _HEADER.pack(self.stream, self.number % _NUMBERS, self.consumed) + self.data

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """The frame in a payload.

        Raises:
            FrameError: it is too short or too long to be one.
        """
        if not _HEADER.size <= len(payload) <= _HEADER.size + MAX_DATA:
            raise FrameError(
                f"a frame has {_HEADER.size} to {_HEADER.size + MAX_DATA:,} bytes, "
                f"not {len(payload):,}"
            )
        stream, number, consumed = _HEADER.unpack_from(payload)
        return cls(stream, number, consumed, payload[_HEADER.size :])

    def follows(self, before: int) -> bool:
        """Whether it is the next one after so many."""
        return self.number == before % _NUMBERS


def stream_tag(stream: str) -> bytes:
    """The header's four bytes of a stream, whose name is eight hexadecimal digits.

    Raises:
        FrameError: it is not.
    """
    try:
        tag = bytes.fromhex(stream)
    except ValueError:
        tag = b""
    if len(tag) != 4 or len(stream) != 8:
        raise FrameError(f"a stream's id is eight hexadecimal digits, not {stream!r}")
    return tag


class OpenStream(Message):
    """Open a stream of a device; one that is open already is ended by that."""

    device: Name


class CloseStream(Message):
    """Close a stream; the device stays reserved and ready."""

    device: Name


class UsbInterface(Message):
    """What an interface of a USB device is (USB 2.0, 9.6.5)."""

    interface_class: int = Field(ge=0, le=255)
    subclass: int = Field(ge=0, le=255)
    protocol: int = Field(ge=0, le=255)


class UsbDescription(Message):
    """What an importing host has to know of a USB device before it sees its descriptors.

    The fields are those of a device in USB/IP's OP_REP_IMPORT (the kernel's
    Documentation/usb/usbip_protocol.rst); `speed` is the kernel's enum usb_device_speed:
    1 low, 2 full, 3 high, 5 super.
    """

    busid: str = Field(max_length=31)
    busnum: int = Field(ge=0, le=0xFFFF)
    devnum: int = Field(ge=0, le=0xFFFF)
    speed: int = Field(ge=0, le=6)
    vendor: int = Field(ge=0, le=0xFFFF)
    product: int = Field(ge=0, le=0xFFFF)
    release: int = Field(ge=0, le=0xFFFF)
    device_class: int = Field(ge=0, le=255)
    subclass: int = Field(ge=0, le=255)
    protocol: int = Field(ge=0, le=255)
    configuration: int = Field(ge=0, le=255)
    configurations: int = Field(ge=0, le=255)
    interfaces: tuple[UsbInterface, ...] = Field(default=(), max_length=32)


class ResetDevices(Message):
    """Start devices anew in what they do: those that are named, or all of the reservation.

    A device that is exported is unbound and exported again; one that measures gets its firmware
    again.
    """

    devices: tuple[Name, ...] | None = Field(default=None, min_length=1)
