"""Which routing switches of a bitstream are closed, and so what drives a wire.

A wire of the device runs through several tiles and has another name in each; icebox knows them all
(`expand_net`). In every tile that it passes, configuration bits may switch another wire onto it.
Following closed switches backwards from a wire ends at what drives it. Only wires that somebody
asks about are looked up, and what is found out about the device is kept for the next bitstream:
that is what makes an answer cost milliseconds instead of decoding the whole device.

Switches conduct in one direction only, as in icebox's databases and in the silicon.
"""

import re
from types import ModuleType
from typing import Any, NamedTuple

from icefarm_agent.virtual.errors import BitstreamError
from icefarm_agent.virtual.icestorm import Configuration, Tile

Wire = tuple[int, int, str]
"""Tile column, tile row, and the wire's name in that tile."""

_NETS_KEPT = 20_000
"""Nets remembered between bitstreams: some tens of megabytes at most."""

_SOURCES = re.compile(
    r"lutff_\d/(out|lout|cout)$|io_\d/D_IN_\d$|padin_\d$|glb_netwk_\d$|carry_in_mux$"
    r"|ram/RDATA_|mult/|slf_op_"
)
"""Names of wires that something other than a routing switch may drive."""


class _Switch(NamedTuple):
    tile: tuple[int, int]
    closed_when: tuple[tuple[int, int, str], ...]  # row, column, "0" or "1"
    source: Wire


class _Net(NamedTuple):
    """What is known about one wire of the device, whatever the bitstream."""

    sources: tuple[Wire, ...]
    switches: tuple[_Switch, ...]


class Device:
    """The iCE40UP5K's wires and switches, from icebox, remembered as they are asked for."""

    def __init__(self, icebox: ModuleType) -> None:
        self.icebox: Any = icebox
        self.grid: Any = icebox.iceconfig()
        self.grid.setup_empty_5k()
        self.pins: dict[tuple[int, int, int], str] = {
            (x, y, block): pin for pin, x, y, block in self.grid.pinloc_db("sg48")
        }
        self.pads = {pin: place for place, pin in self.pins.items()}
        self._nets: dict[Wire, _Net] = {}
        self._switches_by_database: dict[int, dict[str, list[Any]]] = {}

    def net(self, wire: Wire) -> _Net:
        """The net that a wire belongs to."""
        known = self._nets.get(wire)
        if known is not None:
            return known
        # Two kinds of wire are not driven by switches alone, so whoever asks decides what drives
        # them: a global network (which reaches every tile), and the start of a carry chain.
        if wire[2].startswith(("glb_netwk_", "carry_in_mux")):
            return _Net((wire,), ())
        segments: set[Wire] = self.grid.expand_net(wire)
        switches: list[_Switch] = []
        for x, y, name in sorted(segments):
            for bits, source in self._switches_onto(x, y, name):
                if self.grid.tile_has_net(x, y, source):
                    switches.append(_Switch((x, y), bits, (x, y, source)))
        sources = sorted(segment for segment in segments if _SOURCES.match(segment[2]))
        net = _Net(tuple(sources), tuple(switches))
        if len(self._nets) >= _NETS_KEPT:
            self._nets.clear()
        self._nets[wire] = net
        return net

    def _switches_onto(self, x: int, y: int, name: str) -> list[Any]:
        if (x in (0, self.grid.max_x)) and (y in (0, self.grid.max_y)):
            return []  # the corners hold nothing
        database = self.grid.tile_db(x, y)
        by_name = self._switches_by_database.get(id(database))
        if by_name is None:
            by_name = {}
            for entry in database:
                if entry[1] in ("buffer", "routing"):
                    bits = tuple(_parse_bit(bit) for bit in entry[0])
                    by_name.setdefault(entry[3], []).append((bits, entry[2]))
            self._switches_by_database[id(database)] = by_name
        return by_name.get(name, [])

    def function_bits(self, x: int, y: int, kind: str, name: str) -> tuple[int, int]:
        """Row and column of the one configuration bit of a named function of a tile."""
        for entry in self.grid.tile_db(x, y):
            if entry[1] == kind and entry[2] == name:
                row, column, _ = _parse_bit(entry[0][0])
                return row, column
        raise KeyError(f"tile {x} {y} has no {kind} {name}")


def _parse_bit(text: str) -> tuple[int, int, str]:
    """Read icebox's notation: B3[17] must be set, !B3[17] must be clear."""
    match = re.fullmatch(r"(!?)B(\d+)\[(\d+)\]", text)
    if match is None:
        raise ValueError(f"icebox names a bit in an unknown way: {text}")
    return int(match[2]), int(match[3]), "0" if match[1] else "1"


class Routing:
    """The closed switches of one bitstream."""

    def __init__(self, device: Device, configuration: Configuration) -> None:
        self.device = device
        self.tiles: dict[tuple[int, int], Tile] = configuration.tiles

    def closed(self, wire: Wire) -> list[Wire]:
        """The wires that closed switches connect directly to this one."""
        found = []
        for tile, closed_when, source in self.device.net(wire).switches:
            rows = self.tiles.get(tile)
            if rows is not None and all(rows[r][c] == bit for r, c, bit in closed_when):
                found.append(source)
        return found

    def source(self, wire: Wire) -> Wire | None:
        """The wire that a function of the device drives and that reaches this one, or None.

        Raises BitstreamError if two different ones do: their levels would fight.
        """
        sources: set[Wire] = set()
        seen = {wire}
        queue = [wire]
        while queue:
            current = queue.pop()
            sources.update(self.device.net(current).sources)
            for origin in self.closed(current):
                if origin not in seen:
                    seen.add(origin)
                    queue.append(origin)
        if len(sources) > 1:
            names = " and ".join(f"{name} of tile ({x}, {y})" for x, y, name in sorted(sources))
            raise BitstreamError(
                f"the circuit cannot be simulated digitally: {names} drive the same wire"
            )
        return sources.pop() if sources else None
