"""A suite of eight tests that test_pytest_plugin.py runs; it is none of this repository's own.

Each test measures a circuit and writes down which board it had, and from when to when.
"""

import json
import os
import time
from pathlib import Path

import pytest

import icefarm

CIRCUITS = Path(icefarm.__file__).parent / "circuits"
PULSES = {"pulse_1khz.bin": 1000, "pulse_5khz.bin": 5000, "pulse_20khz.bin": 20000, "silent.bin": 0}


@pytest.mark.parametrize("again", [1, 2])
@pytest.mark.parametrize("circuit", PULSES)
@pytest.mark.board(behaviour="pulsecount")
def test_pulses(board: icefarm.HeldBoard, circuit: str, again: int) -> None:
    start = time.monotonic()
    assert board.measure(CIRCUITS / circuit).pulses == PULSES[circuit]
    time.sleep(0.2)  # Another test that had the same board now would be noticed.
    line = json.dumps([str(board), start, time.monotonic(), os.getpid()]) + "\n"
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(line)
