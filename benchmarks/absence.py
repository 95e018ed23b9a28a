"""How long after an agent has died, or fallen silent, the holder of its boards is told.

A real agent with a virtual board that somebody holds, with a grace of a second for the agent's
absence. Killed, it is noticed by its broken connection; stopped, by its silence of one and a half
keep-alives.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icefarm
from benchmarks.farm import Farm, Place, running_control, running_servers
from benchmarks.report import Figure, Target
from icefarm_broker.connection import KEEPALIVE

_GRACE = 1.0
_KILLED = 1.0
_SILENT = 1.5 * KEEPALIVE + 5
"""Seconds beyond the grace: the targets."""
_KILLS = 3


@contextmanager
def _agent(farm: Farm) -> Iterator[int]:
    """An agent with one board, which the block may kill or stop."""
    command = [
        *(str(Path(sys.executable).parent / "icefarm-agent"), "--broker", farm.url),
        *("--name", "dying", "--virtual-boards", "1", "--virtual-speed", "100"),
    ]
    with (farm.logs / "dying.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        yield process.pid
    finally:
        # A process that is stopped ends only when it goes on.
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


async def _seconds_until_told(farm: Farm, number: signal.Signals) -> float:
    """From the signal to the holder's knowing that he has lost his board, beyond the grace."""
    async with icefarm.AsyncClient(farm.url, name="holder") as client:
        with _agent(farm) as pid:
            await client.wait_until_available(1)
            held = await client.reserve(1, board_grace=_GRACE)
            start = time.perf_counter()
            os.kill(pid, number)
            while held.id not in client._view.ended:
                await client._view.changed()
            return time.perf_counter() - start - _GRACE


async def measure(place: Place) -> list[Figure]:
    """The longest of some deaths, and one silence, in seconds."""
    async with running_servers(place, "absence") as farm, running_control(farm):
        farm.logs.mkdir(parents=True, exist_ok=True)
        killed = [await _seconds_until_told(farm, signal.SIGKILL) for _ in range(_KILLS)]
        async with asyncio.timeout(2 * _SILENT):
            silent = await _seconds_until_told(farm, signal.SIGSTOP)
    return [
        Figure(
            "killed_s",
            "agent killed: its holder is told, beyond his grace, longest",
            max(killed),
            "s",
            target=Target("at most", _KILLED),
        ),
        Figure(
            "silent_s",
            "agent silent: its holder is told, beyond his grace",
            silent,
            "s",
            target=Target("at most", _SILENT),
        ),
    ]
