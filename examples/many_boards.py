"""Many boards: each circuit on every board, and for each board a circuit of its own.

    icefarm up                                  # in another terminal
    python examples/many_boards.py --boards 4

Virtual boards agree to the pulse; real ones differ by about one in a thousand.
"""

from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer

import icefarm

CIRCUITS = sorted((Path(__file__).parent / "circuits").glob("pulse_*.bin"))


def compare(held: icefarm.Reservation) -> None:
    """Measure each circuit on every board: do the boards agree?"""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for result in held.evaluate(CIRCUITS, on_every_board=True):
        if result.pulses is None:
            print(f"{result.board} has no result: {result.error}")
        else:
            counts[Path(result.bitstream).name][result.board] = result.pulses
    for circuit, by_board in sorted(counts.items()):
        spread = max(by_board.values()) - min(by_board.values())
        print(f"{circuit}: {len(by_board)} boards, from lowest to highest {spread} pulses apart")


def share_out(held: icefarm.Reservation) -> None:
    """Measure on each board a circuit that is meant for it, which is a pair of both."""
    pairs = list(zip(cycle(CIRCUITS), held.boards, strict=False))
    for result in held.evaluate(pairs):
        print(f"{result.board}: {Path(result.bitstream).name} makes {result.pulses} pulses")


def main(boards: Annotated[int, typer.Option(min=1)] = 4) -> None:
    """Reserve boards and use all of them."""
    with icefarm.Client() as farm, farm.reserve(boards) as held:
        compare(held)
        share_out(held)


if __name__ == "__main__":
    typer.run(main)
