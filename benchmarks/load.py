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

WARM_UP = 1.0
"""Seconds in which clients work already, but nothing is counted."""
COUNTED = 5.0
"""Seconds that are counted."""


@dataclass(frozen=True)
class Load:
    """What so many clients got, all times in seconds.

    Attributes:
        cycles: acquire + release, a second.
        p50, p99: of an acquire, as the client sees it.
        failures: what went wrong, and how often; none of these is a cycle.
        cpu: CPU seconds per cycle of each process of the system.
        generators: CPU share of each process that made load: 1 is a whole core, and then it is
            they that limit the figures.
    """

    clients: int
    cycles: float
    p50: float
    p99: float
    failures: Mapping[str, int]
    cpu: Mapping[str, float]
    generators: tuple[float, ...]


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
    acquires = sorted(seconds for counts in told for seconds in counts["acquires"])
    cycles = sum(counts["cycles"] for counts in told)
    failures: Counter[str] = Counter()
    for counts in told:
        failures.update(counts["failures"])
    if len(acquires) < 2 or cycles == 0:
        raise RuntimeError(f"{clients} clients did nothing in {COUNTED:g} s: {dict(failures)}")
    return Load(
        clients=clients,
        cycles=cycles / COUNTED,
        p50=statistics.median(acquires),
        p99=statistics.quantiles(acquires, n=100, method="inclusive")[98],
        failures=dict(failures),
        cpu={name: seconds / cycles for name, seconds in meter.seconds.items()},
        generators=tuple(counts["cpu"] / COUNTED for counts in told),
    )
