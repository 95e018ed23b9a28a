"""What is bred: the truth tables of a circuit's lookup tables (LUTs), in a real iCE40 bitstream.

A LUT of the iCE40 has four inputs, so 16 bits say what it answers. They lie in the tile's
configuration beside the routing, which stays as it was designed. So a mutant is always a digital
circuit with the same clock, wires and flip-flops, however wrong its logic has become.

Project IceStorm translates between the bitstream and text with one line for each row of bits:
https://prjicestorm.readthedocs.io/en/latest/logic_tile.html
"""

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

Genome = tuple[str, ...]
"""For each LUT in use its truth table, as 16 characters 0 or 1."""

_TABLE = slice(36, 44)
"""Half a truth table, in each of the two rows of a LUT."""
_LOGIC_CELL = slice(36, 46)
"""The same with the bits for its carry and flip-flop."""
_LUTS_OF_A_TILE = 8
_MOST_MUTATIONS = 3


@dataclass(frozen=True)
class Design:
    """A circuit without its truth tables: what all its descendants have in common."""

    rows: tuple[str, ...]
    luts: tuple[int, ...]
    """The first row of each LUT in use."""

    @classmethod
    def of(cls, bitstream: Path) -> tuple["Design", Genome]:
        """Take a bitstream apart."""
        text = subprocess.run(
            ["iceunpack", str(bitstream)], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        rows = text.split("\n")
        tiles = [n + 1 for n, row in enumerate(rows) if row.startswith(".logic_tile")]
        cells = [tile + 2 * number for tile in tiles for number in range(_LUTS_OF_A_TILE)]
        used = [n for n in cells if "1" in rows[n][_LOGIC_CELL] + rows[n + 1][_LOGIC_CELL]]
        genome = tuple(rows[n][_TABLE] + rows[n + 1][_TABLE] for n in used)
        return cls(tuple(rows), tuple(used)), genome

    def bitstream(self, genome: Genome) -> bytes:
        """Put it together again, with these truth tables."""
        rows = list(self.rows)
        for lut, table in zip(self.luts, genome, strict=True):
            for row, half in ((lut, table[:8]), (lut + 1, table[8:])):
                rows[row] = rows[row][: _TABLE.start] + half + rows[row][_TABLE.stop :]
        text = "\n".join(rows).encode()
        return subprocess.run(["icepack"], input=text, stdout=subprocess.PIPE, check=True).stdout


def mutate(genome: Genome, rng: random.Random) -> Genome:
    """Change a truth table or a few."""
    tables = list(genome)
    for _ in range(rng.randint(1, _MOST_MUTATIONS)):
        lut = rng.randrange(len(tables))
        change = rng.choice((_flip_one_bit, _move_a_one))
        tables[lut] = change(tables[lut], rng)
    return tuple(tables)


def cross(mother: Genome, father: Genome, rng: random.Random) -> Genome:
    """Each truth table from either parent."""
    return tuple(rng.choice(tables) for tables in zip(mother, father, strict=True))


def _flip_one_bit(table: str, rng: random.Random) -> str:
    bit = rng.randrange(len(table))
    return table[:bit] + ("1" if table[bit] == "0" else "0") + table[bit + 1 :]


def _move_a_one(table: str, rng: random.Random) -> str:
    """A LUT that recognised one number recognises another one."""
    ones = [bit for bit in range(len(table)) if table[bit] == "1"]
    zeros = [bit for bit in range(len(table)) if table[bit] == "0"]
    if not ones or not zeros:
        return table
    bits = list(table)
    bits[rng.choice(ones)], bits[rng.choice(zeros)] = "0", "1"
    return "".join(bits)
