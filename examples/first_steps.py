"""First steps: which boards are there, reserve one, measure circuits on it, give it back.

    icefarm up                          # in another terminal
    python examples/first_steps.py

What is printed is the same with real boards, but for names and a crystal's deviation.
"""

from pathlib import Path

import icefarm

CIRCUITS = Path(__file__).parent / "circuits"

with icefarm.Client() as farm:
    for board in farm.boards():
        print(f"{board.name} is a {board.product}; it is {board.status}")

    # The board is yours in this block and given back at its end, also when an error ends it.
    with farm.reserve() as reservation:
        [mine] = reservation.boards
        result = mine.measure(CIRCUITS / "pulse_1khz.bin")
        print(f"{mine} counted {result.pulses} pulses in one second")

        # Many circuits: results come one by one. A circuit that has none does not end the others.
        for result in reservation.evaluate([CIRCUITS / "pulse_5khz.bin", b"no bitstream"]):
            print(f"{result.bitstream}: {result.error or result.pulses}")

        # A single one raises its error.
        try:
            mine.measure(b"neither")
        except icefarm.InvalidBitstreamError as error:
            print(f"refused: {error}")
