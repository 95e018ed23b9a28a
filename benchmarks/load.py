"""Load on a system by clients in processes of their own, and what came of it."""

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import running
from benchmarks.usage import CpuMeter

WARM_UP = 0.7
"""Seconds in which clients work already, but nothing is counted."""
COUNTED = 3.0
"""Seconds that are counted."""


@dataclass(frozen=True)
class Load:
    """What so many clients got.

    Attributes:
        seconds: for which it was counted.
        acquires: seconds of each acquire, as its client saw it.
        cycles: how many times a board was acquired and released.
        failures: what went wrong, and how often; none of these is a cycle.
        cpu: CPU seconds of each process of the system.
        generators: CPU share of each process that made load: 1 is a whole core, and then it is
            they that limit the figures.
    """

    clients: int
    seconds: float
    acquires: list[float]
    cycles: int
    failures: Counter[str]
    cpu: dict[str, float]
    generators: list[float]

    def __add__(self, other: "Load") -> "Load":
        """Both together, as if it had been counted for longer."""
        return Load(
            self.clients,
            self.seconds + other.seconds,
            self.acquires + other.acquires,
            self.cycles + other.cycles,
            self.failures + other.failures,
            {name: self.cpu[name] + other.cpu[name] for name in self.cpu},
            self.generators + other.generators,
        )

    @property
    def rate(self) -> float:
        """Cycles a second."""
        return self.cycles / self.seconds

    def percentile(self, percent: int) -> float:
        """Seconds that so many of all acquires did not exceed."""
        return statistics.quantiles(self.acquires, n=100, method="inclusive")[percent - 1]


async def put_load(
    clients: int, command: Callable[[int, int], list[str]], pids: Mapping[str, int], logs: Path
) -> Load:
    """Let so many clients work at once.

    They are spread over as many processes as there are cores: one would be slower than what it
    measures, and more would only take the cores from it.

    Args:
        command: of a process that makes load, from the number of its clients and that of its first.
        pids: the system's processes, whose CPU time is counted.
    """
    processes = min(clients, os.cpu_count() or 1)
    shares = [clients // processes + (n < clients % processes) for n in range(processes)]
    async with AsyncExitStack() as stack:
        generators = [
            await stack.enter_async_context(
                running(
                    f"load-{clients}-clients-{number}", command(share, sum(shares[:number])), logs
                )
            )
            for number, share in enumerate(shares)
        ]
        for generator in generators:
            await generator.hear()
        begin = time.perf_counter() + WARM_UP
        for generator in generators:
            await generator.tell({"begin": begin, "end": begin + COUNTED})
        meter = CpuMeter(pids)
        await asyncio.sleep(begin - time.perf_counter())
        meter.start()
        await asyncio.sleep(begin + COUNTED - time.perf_counter())
        meter.stop()
        told = [await generator.hear() for generator in generators]
    load = Load(
        clients=clients,
        seconds=COUNTED,
        acquires=[seconds for counts in told for seconds in counts["acquires"]],
        cycles=sum(counts["cycles"] for counts in told),
        failures=sum((Counter(counts["failures"]) for counts in told), Counter()),
        cpu=meter.seconds,
        generators=[counts["cpu"] / COUNTED for counts in told],
    )
    if len(load.acquires) < 2 or load.cycles == 0:
        raise RuntimeError(f"{clients} clients did nothing in {COUNTED:g} s: {load.failures}")
    return load
