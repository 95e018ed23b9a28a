"""The examples are programs that work, on a farm of two boards."""

import subprocess
import sys

import pytest
from examples.running import EXAMPLES, RunExample
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto


def test_first_steps(run_example: RunExample) -> None:
    said = run_example("first_steps.py").splitlines()
    assert said[:2] == [
        f"bench-{number} is a virtual pico-ice; it is available" for number in (1, 2)
    ]
    assert said[2] in [f"bench-{number} counted 1000 pulses in one second" for number in (1, 2)]
    results = dict(line.rsplit(": ", 1) for line in said[3:5] if "khz" in line)
    assert results == {str(EXAMPLES / "circuits" / "pulse_5khz.bin"): "5000"}
    [wrong] = [line for line in said[3:5] if line.startswith("bitstream 1: ")]
    assert "12 bytes" in wrong
    assert said[5].startswith("refused: the bitstream has 7 bytes")
    assert len(said) == 6


def test_many_boards(run_example: RunExample) -> None:
    said = run_example("many_boards.py", "--boards", "2").splitlines()
    assert said[:3] == [
        f"pulse_{kilohertz}khz.bin: 2 boards, from lowest to highest 0 pulses apart"
        for kilohertz in (1, 20, 5)
    ]
    assert sorted(said[3:]) == [
        "bench-1: pulse_1khz.bin makes 1000 pulses",
        "bench-2: pulse_20khz.bin makes 20000 pulses",
    ]


@pytest.mark.parametrize(
    ("how", "waits", "has"),
    [
        ("queue", "queueing for 2 boards", "mine now: bench-1 bench-2"),
        ("event", "waiting until 2 boards are free", "2 boards are free"),
    ],
)
def test_waiting_for_boards(
    how: str, waits: str, has: str, farm: Processes, mosquitto: Mosquitto
) -> None:
    program = (sys.executable, str(EXAMPLES / "waiting_for_boards.py"), how)
    with icefarm.Client(mosquitto.url, name="ann") as ann, ann.reserve(2) as reservation:
        waiting = farm.start("waiting", *program)
        until(lambda: waits in farm.output("waiting"))
        if how == "queue":
            until(lambda: ann.availability().queued == 1, "it is in the queue")
        reservation.release(reservation.boards[:1])
        if how == "event":
            until(lambda: "free now: 1" in farm.output("waiting"))
        assert waiting.poll() is None
        reservation.release()
        assert waiting.wait(30) == 0, farm.output("waiting")
    assert farm.output("waiting").splitlines()[-1] == has


@pytest.mark.parametrize("how", ["queue", "event"])
def test_waiting_for_boards_in_vain(how: str, farm: Processes, mosquitto: Mosquitto) -> None:
    program = (sys.executable, str(EXAMPLES / "waiting_for_boards.py"), how, "--limit", "0.5")
    with icefarm.Client(mosquitto.url, name="ann") as ann, ann.reserve(1):
        done = subprocess.run(
            program, capture_output=True, text=True, timeout=60, env=farm.environment, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("not this time: ")
    assert len(done.stderr.splitlines()) == 1
