"""The disk of the RP2040's bootloader: what it holds, and what is written to it."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from kernel.uf2 import BLOCK, Block, parse_block

_SECTOR = 512
_PAGE = 4096
_SECTORS = 262_144
"""128 MiB, of which next to nothing takes any place."""
_START = 1
"""The partition's first sector; the only one before it holds the partition table."""
_CLUSTER = 8
_FATS = 2
_ROOT_ENTRIES = 512
_SIZE = _SECTORS - _START
_FAT_SECTORS = -(-(_SIZE // _CLUSTER + 2) * 2 // _SECTOR)
_ROOT = _START + 1 + _FATS * _FAT_SECTORS
_DATA = _ROOT + _ROOT_ENTRIES * 32 // _SECTOR
_LABEL = b"RPI-RP2    "
_FILES = {
    b"INDEX   HTM": b'<html><head><meta http-equiv="refresh" content="0;URL='
    b'https://www.raspberrypi.com/"/></head></html>',
    b"INFO_UF2TXT": b"UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n",
}


def format_disk(path: Path) -> None:
    """Write the disk as the boot ROM shows it at each start: one FAT16 partition, two files."""
    with path.open("wb") as disk:

        def put(sector: int, data: bytes, offset: int = 0) -> None:
            disk.seek(sector * _SECTOR + offset)
            disk.write(data)

        disk.truncate(_SECTORS * _SECTOR)
        partition = bytes([0, 0, 0, 0, 0x0E, 0, 0, 0]) + struct.pack("<II", _START, _SIZE)
        put(0, partition, 446)
        put(0, b"\x55\xaa", 510)
        geometry = struct.pack(
            "<HBHBHHBHHHIIBBBI",
            *(_SECTOR, _CLUSTER, 1, _FATS, _ROOT_ENTRIES, 0, 0xF8, _FAT_SECTORS, 1, 1),
            *(_START, _SIZE, 0, 0, 0x29, 1),
        )
        put(_START, b"\xeb\x3c\x90MSWIN4.1" + geometry + _LABEL + b"FAT16   ")
        put(_START, b"\x55\xaa", 510)
        for copy in range(_FATS):
            # Two reserved entries, then each file's only cluster.
            entries = struct.pack("<4H", 0xFFF8, 0xFFFF, 0xFFFF, 0xFFFF)
            put(_START + 1 + copy * _FAT_SECTORS, entries)
        put(_ROOT, _LABEL + bytes([0x28]) + bytes(20))
        for number, (name, text) in enumerate(_FILES.items()):
            entry = name + bytes([0x21]) + bytes(14) + struct.pack("<HI", 2 + number, len(text))
            put(_ROOT, entry, 32 * (number + 1))
            put(_DATA + number * _CLUSTER, text)


class Disk:
    """Sees the UF2 blocks that are written to a disk, in any sector."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[int, bytes] = {}

    def new_blocks(self) -> Iterator[Block]:
        """What was written since the last call, in the order of the sectors."""
        fd = os.open(self._path, os.O_RDONLY)
        try:
            for at in _written_pages(fd):
                page = os.pread(fd, _PAGE, at)
                if self._seen.get(at) == page:
                    continue
                self._seen[at] = page
                for offset in range(0, len(page), BLOCK):
                    block = parse_block(page[offset : offset + BLOCK])
                    if block is not None:
                        yield block
        finally:
            os.close(fd)


def _written_pages(fd: int) -> Iterator[int]:
    """Where the pages are that hold anything, so that the empty 128 MiB need not be read."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing from here to the end
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield from range(at, end, _PAGE)
        at = end
