"""UF2 files: firmware as a boot ROM's disk takes it.

The format is at https://github.com/microsoft/uf2: blocks of 512 bytes, each with its number, their
count, and which chip family it is for. What the boot ROMs of RP2040 and RP2350 take of it is in
`vd_write_block` of their sources (pico-bootrom-rp2040 and pico-bootrom-rp2350).
"""

import struct
from collections import defaultdict
from dataclasses import dataclass

from icefarm_agent.board import FirmwareError
from icefarm_schemas import MAX_PAYLOAD_BYTES

BLOCK_BYTES = 512
MAX_BYTES = MAX_PAYLOAD_BYTES
"""What a client can send, and twice the flash of a Pico."""

RP2040 = frozenset({0xE48BFF56})
RP2350 = frozenset({0xE48BFF57, 0xE48BFF58, 0xE48BFF59, 0xE48BFF5A, 0xE48BFF5B})

FAMILY_NAMES = {
    0xE48BFF56: "RP2040",
    0xE48BFF57: "RP2XXX absolute",
    0xE48BFF58: "RP2XXX data",
    0xE48BFF59: "RP2350 ARM secure",
    0xE48BFF5A: "RP2350 RISC-V",
    0xE48BFF5B: "RP2350 ARM non-secure",
}
"""Of chips that our boards have; from `boot/uf2.h` of the Pico SDK."""

_HEADER = struct.Struct("<8I")
_END = struct.Struct("<I")
_START_MAGIC = (0x0A324655, 0x9E5D5157)
_END_MAGIC = 0x0AB16F30
_NOT_FOR_FLASH = 0x00000001
_HAS_FAMILY = 0x00002000
_MOST_PAYLOAD = 476
_PAGE = 256
"""The payload that the boot ROMs want in each block."""

_ABSOLUTE_FAMILY = 0xE48BFF57
_ERRATUM_COUNT = 2
"""picotool puts one block of the absolute family, said to be the first of two, before an RP2350's
image. It works around erratum RP2350-E10, and its second never comes."""


@dataclass(frozen=True)
class Uf2:
    """A UF2 file that is whole."""

    data: bytes
    families: frozenset[int]
    """The chip families that it has something for; empty if it does not say."""
    blocks: int

    def check_chip(self, accepted: frozenset[int]) -> None:
        """See whether a boot ROM of the `accepted` families will take it.

        Raises:
            FirmwareError: it is for another chip.
        """
        if not self.families:
            raise FirmwareError(
                "the UF2 file does not say which chip it is for, and a boot ROM ignores such a file"
            )
        if not self.families & accepted:
            raise FirmwareError(
                f"the UF2 file is for another chip: for {_names(self.families)}, while the board "
                f"takes {_names(accepted)}"
            )


def parse_uf2(data: bytes) -> Uf2:
    """Check a UF2 file.

    Raises:
        FirmwareError: it is not one, or not a whole one; the text says which block is wrong.
    """
    if not data:
        raise FirmwareError("the UF2 file is empty")
    if len(data) > MAX_BYTES:
        raise FirmwareError(f"the UF2 file has {len(data):,} bytes; {MAX_BYTES:,} are allowed")
    if len(data) < BLOCK_BYTES or _HEADER.unpack_from(data)[:2] != _START_MAGIC:
        raise FirmwareError(_what_it_is(data))
    if len(data) % BLOCK_BYTES:
        raise FirmwareError(
            f"the UF2 file is truncated: it ends {len(data) % BLOCK_BYTES} bytes into its block "
            f"{len(data) // BLOCK_BYTES + 1}, and a block has {BLOCK_BYTES}"
        )
    counts: dict[int | None, int] = {}
    numbers: defaultdict[int | None, set[int]] = defaultdict(set)
    for index in range(len(data) // BLOCK_BYTES):
        family, number, count = _block(data, index)
        if family == _ABSOLUTE_FAMILY and (number, count) == (0, _ERRATUM_COUNT) and index == 0:
            continue
        if counts.setdefault(family, count) != count:
            raise FirmwareError(
                f"block {index + 1} of the UF2 file says that there are {count} blocks, others say "
                f"{counts[family]}"
            )
        if number >= count:
            raise FirmwareError(
                f"block {index + 1} of the UF2 file says that it is number {number} of {count}, "
                "counted from 0"
            )
        numbers[family].add(number)
    if not counts:
        raise FirmwareError("the UF2 file holds nothing but a workaround for an erratum of RP2350")
    for family, count in counts.items():
        missing = sorted(set(range(count)) - numbers[family])[:1] if count <= MAX_BYTES else [0]
        if missing:
            raise FirmwareError(
                f"the UF2 file is not whole: it has {len(numbers[family])} of {count} blocks, and "
                f"number {missing[0]}, counted from 0, is the first that is missing"
            )
    families = frozenset(family for family in counts if family is not None)
    return Uf2(bytes(data), families, len(data) // BLOCK_BYTES)


def _block(data: bytes, index: int) -> tuple[int | None, int, int]:
    """The family, number and count of one block, whose other fields are checked."""
    at = index * BLOCK_BYTES
    first, second, flags, address, size, number, count, family = _HEADER.unpack_from(data, at)
    (end,) = _END.unpack_from(data, at + BLOCK_BYTES - _END.size)
    if (first, second) != _START_MAGIC or end != _END_MAGIC:
        raise FirmwareError(
            f"block {index + 1} of the UF2 file is damaged: its magic numbers are wrong"
        )
    if size > _MOST_PAYLOAD:
        raise FirmwareError(
            f"block {index + 1} of the UF2 file is damaged: it claims {size} bytes of payload, "
            f"{_MOST_PAYLOAD} are possible"
        )
    if not flags & _HAS_FAMILY:
        return None, number, count
    if family in FAMILY_NAMES and (size != _PAGE or flags & _NOT_FOR_FLASH or address % _PAGE):
        raise FirmwareError(
            f"block {index + 1} of the UF2 file is none that the boot ROM of an "
            f"{FAMILY_NAMES[family]} writes: that takes pages of {_PAGE} bytes, and this is "
            f"{size} bytes at {address:#010x}"
        )
    return family, number, count


def _what_it_is(data: bytes) -> str:
    kinds = {
        b"\x7fELF": "an ELF file; `picotool uf2 convert` or the build's .uf2 is what is needed",
        b"\xff\x00": "an iCE40 bitstream, not the microcontroller's firmware",
        b"\x7e\xaa\x99\x7e": "an iCE40 bitstream, not the microcontroller's firmware",
    }
    kind = next((kind for magic, kind in kinds.items() if data.startswith(magic)), None)
    return "this is not a UF2 file" + (f" but {kind}" if kind else f": it begins {data[:8]!r}")


def _names(families: frozenset[int]) -> str:
    return " or ".join(FAMILY_NAMES.get(f, f"family {f:#010x}") for f in sorted(families))
