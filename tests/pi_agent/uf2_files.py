"""UF2 files as picotool writes them."""

import random
import struct

RP2040_FAMILY, RP2350_FAMILY, ABSOLUTE_FAMILY = 0xE48BFF56, 0xE48BFF59, 0xE48BFF57


def block(
    number: int,
    count: int,
    family: int | None = RP2040_FAMILY,
    *,
    size: int = 256,
    address: int | None = None,
    flags: int | None = None,
    payload: bytes = b"",
) -> bytes:
    where = 0x10000000 + 256 * number if address is None else address
    what = (0 if family is None else 0x2000) if flags is None else flags
    header = struct.pack(
        "<8I", 0x0A324655, 0x9E5D5157, what, where, size, number, count, family or 0
    )
    return header + payload.ljust(476, b"\0") + struct.pack("<I", 0x0AB16F30)


def uf2(count: int = 4, family: int | None = RP2040_FAMILY, seed: int = 1) -> bytes:
    content = random.Random(seed)
    return b"".join(block(n, count, family, payload=content.randbytes(256)) for n in range(count))


ERRATUM = block(0, 2, ABSOLUTE_FAMILY, address=0x10FFFF00, flags=0xA000, payload=b"\xef" * 256)
"""What picotool puts before an RP2350's image, for erratum RP2350-E10."""
