"""Project IceStorm as it is installed: finding it, and unpacking a bitstream with it.

icebox.py is a plain module in a share folder rather than an installed package, so it has to be
looked for. Its databases say where every wire and switch of the device is; iceunpack turns the
container into tiles of configuration bits.
"""

import importlib
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from icefarm_agent.virtual.errors import BitstreamError, ToolsMissing

Tile = list[str]
"""A tile's configuration bits: 16 rows of "0" and "1"."""

_SHARES = ("share/fpga-icestorm/python", "share/icestorm/python", "share/icebox", "bin")


@dataclass(frozen=True)
class Tools:
    """Where the tools are."""

    iceunpack: str
    icebox_folder: Path


@dataclass(frozen=True)
class Configuration:
    """A bitstream's content: bits by tile position, and the bits that belong to no tile."""

    tiles: dict[tuple[int, int], Tile]
    extra_bits: frozenset[tuple[int, int, int]]


def locate() -> Tools:
    """Find iceunpack on PATH and icebox.py beside it or in a known share folder.

    Raises ToolsMissing with what to install.
    """
    iceunpack = shutil.which("iceunpack")
    if iceunpack is None:
        raise ToolsMissing(
            "virtual boards need Project IceStorm, and iceunpack is not on PATH: "
            "apt install fpga-icestorm"
        )
    prefixes = [Path(iceunpack).parent.parent, Path(iceunpack).resolve().parent.parent]
    prefixes += [Path("/usr"), Path("/usr/local")]
    for prefix in prefixes:
        for share in _SHARES:
            if (prefix / share / "icebox.py").is_file():
                return Tools(iceunpack, prefix / share)
    raise ToolsMissing(
        f"virtual boards need Project IceStorm: {iceunpack} is there, but not the Python module "
        f"icebox.py that belongs to it: apt install fpga-icestorm"
    )


def load_icebox(tools: Tools) -> ModuleType:
    """Import icebox. Costs about 0.15 s, so it is done once, in a worker."""
    folder = str(tools.icebox_folder)
    if folder not in sys.path:
        sys.path.append(folder)
    with warnings.catch_warnings():
        # It is written for older Pythons, which were silent about "\d" in plain strings.
        warnings.simplefilter("ignore")
        return importlib.import_module("icebox")


def unpack(tools: Tools, image: bytes) -> Configuration:
    """Decode a checked image into its tiles.

    Raises BitstreamError with iceunpack's own words if it refuses the image.
    """
    result = subprocess.run([tools.iceunpack], input=image, capture_output=True, check=False)
    if result.returncode != 0:
        words = result.stderr.decode(errors="replace").strip().removeprefix("Error: ")
        raise BitstreamError(f"iceunpack refuses the bitstream: {words or result.returncode}")
    return _parse(result.stdout.decode())


def _parse(text: str) -> Configuration:
    """Read iceunpack's text: `.KIND_tile X Y` and 16 rows each, `.extra_bit BANK X Y`."""
    tiles: dict[tuple[int, int], Tile] = {}
    extra_bits: set[tuple[int, int, int]] = set()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("."):
            continue
        word, *arguments = line.split()
        if word.endswith("_tile"):
            x, y = map(int, arguments)
            tiles[x, y] = lines[number + 1 : number + 17]
        elif word == ".extra_bit":
            bank, x, y = map(int, arguments)
            extra_bits.add((bank, x, y))
        elif word == ".device" and arguments != ["5k"]:
            raise BitstreamError(f"the bitstream is for another device: iCE40 {arguments[0]}")
    return Configuration(tiles, frozenset(extra_bits))
