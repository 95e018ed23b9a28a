"""Firmware images in UF2, the format that the bootloader's disk takes.

https://github.com/microsoft/uf2: a file of 512-byte blocks that are each complete in themselves, so
that a bootloader can take them from whatever sectors and in whatever order they are written.
"""

import struct
from dataclasses import dataclass

BLOCK = 512
_PAYLOAD = 256
_HEAD = struct.Struct("<8I")
_START, _SECOND, _END = 0x0A324655, 0x9E5D5157, 0x0AB16F30
_FAMILY_GIVEN = 0x2000
_RP2040 = 0xE48BFF56
_FLASH = 0x10000000
"""Where the RP2040 sees its flash memory."""

GREETING = b"ICEFARM TEST FIRMWARE "
"""The beginning of a virtual board's image; the firmware's name and a line's end follow."""


@dataclass(frozen=True)
class Block:
    """One of `total` blocks."""

    number: int
    total: int
    payload: bytes


def uf2(payload: bytes) -> bytes:
    """A UF2 file that puts this into an RP2040's flash memory, from its beginning."""
    parts = [payload[at : at + _PAYLOAD] for at in range(0, len(payload), _PAYLOAD)]
    return b"".join(
        (
            _HEAD.pack(
                *(_START, _SECOND, _FAMILY_GIVEN, _FLASH + number * _PAYLOAD),
                *(_PAYLOAD, number, len(parts), _RP2040),
            )
            + part
        ).ljust(BLOCK - 4, b"\0")
        + struct.pack("<I", _END)
        for number, part in enumerate(parts)
    )


def firmware_image(name: str, size: int = 16_384) -> bytes:
    """What a virtual board runs as the firmware `name`: `size` bytes, which differ throughout."""
    head = GREETING + name.encode() + b"\n"
    filling = b"".join(struct.pack("<I", number) for number in range(size // 4 + 1))
    return (head + filling)[:size]


def firmware_name(image: bytes) -> str | None:
    """The name in an image; None where it is no firmware for virtual boards."""
    if not image.startswith(GREETING):
        return None
    return image[len(GREETING) :].split(b"\n", 1)[0].decode("ascii", "replace")


def parse_block(sector: bytes) -> Block | None:
    """The block in a sector of 512 bytes; None where the RP2040's bootloader would see none."""
    start, second, flags, _, size, number, total, family = _HEAD.unpack_from(sector)
    (end,) = struct.unpack_from("<I", sector, BLOCK - 4)
    if (start, second, end) != (_START, _SECOND, _END) or size != _PAYLOAD:
        return None
    if not flags & _FAMILY_GIVEN or family != _RP2040 or number >= total:
        return None
    return Block(number, total, sector[_HEAD.size : _HEAD.size + size])
