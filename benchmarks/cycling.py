"""The load of both systems: clients that acquire and release in a loop, each waiting for itself.

It needs nothing but Python, since labgrid's clients run in an environment of their own. A process
that makes load says that its clients are ready, is told when to count (the monotonic clock is the
whole machine's), and then tells what it has counted. What its clients do before the counting
begins is their warm-up.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol


class Cycler(Protocol):
    """A client with a connection of its own, that holds at most one board."""

    async def acquire(self) -> None:
        """Take a board, and return when this client knows that it has it."""

    async def release(self) -> None:
        """Give it back, and return when that has been confirmed."""


class Counts:
    """What the clients of one process have done between two times of the monotonic clock."""

    def __init__(self, begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        self._acquires: list[float] = []
        self._cycles = 0
        self._failures: Counter[str] = Counter()
        self._cpu = 0.0

    async def run(
        self, clients: Sequence[Cycler], failures: type[Exception] | tuple[type[Exception], ...]
    ) -> None:
        """Let all clients work until the end; `failures` are counted, anything else is raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_cpu())
            for client in clients:
                tasks.create_task(self._cycle(client, failures))

    async def _cycle(
        self, client: Cycler, failures: type[Exception] | tuple[type[Exception], ...]
    ) -> None:
        while (asked := time.perf_counter()) < self._end:
            try:
                await client.acquire()
                acquired = time.perf_counter()
                await client.release()
                released = time.perf_counter()
            except failures as failure:
                self._failures[f"{type(failure).__name__}: {failure}"[:200]] += 1
                continue
            if self._begin <= acquired < self._end:
                self._acquires.append(acquired - asked)
            if self._begin <= released < self._end:
                self._cycles += 1

    async def _measure_cpu(self) -> None:
        await asyncio.sleep(self._begin - time.perf_counter())
        before = time.process_time()
        await asyncio.sleep(self._end - time.perf_counter())
        self._cpu = time.process_time() - before

    def tell(self) -> None:
        """Write it to standard output."""
        counts = {
            "acquires": self._acquires,
            "cycles": self._cycles,
            "failures": self._failures,
            "cpu": self._cpu,
        }
        print(json.dumps(counts), flush=True)


async def ready() -> Counts:
    """Say that the clients are ready, and return what will count when they have been told to."""
    print(json.dumps("ready"), flush=True)
    order = json.loads(await asyncio.to_thread(sys.stdin.readline))
    return Counts(order["begin"], order["end"])
