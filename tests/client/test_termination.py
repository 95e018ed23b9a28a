"""However a program is ended that lets itself be ended, its boards are given back at once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto

SYNCHRONOUS = """
import icefarm
with icefarm.Client(name="ann") as client, client.reserve(2) as held:
    print("measuring", flush=True)
    for result in held.evaluate(CIRCUIT for _ in iter(int, 1)):
        pass
"""
ASYNCHRONOUS = """
import asyncio, icefarm
async def main():
    async with icefarm.AsyncClient(name="ann") as client, client.reserve(2) as held:
        print("measuring", flush=True)
        async for result in held.evaluate(CIRCUIT for _ in iter(int, 1)):
            pass
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [SYNCHRONOUS, ASYNCHRONOUS], ids=["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_boards_are_given_back(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, program: str, number: signal.Signals
) -> None:
    source = program.replace("CIRCUIT", repr(str(circuits / "pulse_1khz.bin")))
    with icefarm.Client(mosquitto.url, name="watcher") as client:
        process = farm.start("program", sys.executable, "-c", source)
        until(lambda: "measuring" in farm.output("program"))
        process.send_signal(number)
        code = process.wait(20)
        # A lost client keeps its boards for a minute and a half; this one was not lost.
        client.wait_until_available(4, timeout=20)
        [last, *_] = client.history(client="ann", limit=1)
        assert (last.what, last.why) == ("ended", "released")
    # Python says SIGINT by dying of it.
    assert code == (-number if number is signal.SIGINT else 128 + number)


def test_a_program_that_handles_a_signal_itself_is_left_alone(mosquitto: Mosquitto) -> None:
    source = """
import os, signal, icefarm
signal.signal(signal.SIGTERM, lambda *_: print("mine"))
with icefarm.Client(name="ann"):
    os.kill(os.getpid(), signal.SIGTERM)
print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
"""
    ended = subprocess.run(
        [sys.executable, "-c", source],
        env={"ICEFARM_BROKER": mosquitto.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stdout == "mine\nTrue\n"
