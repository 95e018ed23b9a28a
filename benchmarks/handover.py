"""From one client's release to another's notice: how long a board is nobody's while somebody waits.

One client holds all boards in one reservation; another waits in the queue for one of them, and sees
its reservation's retained state become active.
"""

import asyncio
import statistics
import time

import icefarm
from benchmarks.farm import Place, running_reported_farm
from benchmarks.report import Figure
from benchmarks.requesting import (
    release,
    reserve,
    until_active,
    until_known,
    until_served,
)

_BOARDS = (1, 64)
_ROUNDS = 200
_WARM_UP = 10
"""Rounds that are not counted."""
_WAIT = 30.0


async def _round(holder: icefarm.AsyncClient, waiter: icefarm.AsyncClient, boards: int) -> float:
    """Seconds from the release's sending until who waits knows that it is served."""
    held = await reserve(holder, boards)
    queued = await reserve(waiter, 1, wait=_WAIT)
    waiting = asyncio.create_task(until_active(waiter, queued))
    await until_known(waiter, queued)
    start = time.perf_counter()
    releasing = asyncio.create_task(release(holder, held))
    await waiting
    seconds = time.perf_counter() - start
    await releasing
    await release(waiter, queued)
    return seconds


async def measure(place: Place) -> list[Figure]:
    """The median and the longest, in milliseconds, where one board is released and where many."""
    return [figure for boards in _BOARDS for figure in await _with(place, boards)]


async def _with(place: Place, boards: int) -> list[Figure]:
    async with (
        running_reported_farm(place, f"handover-{boards}", boards=boards) as (farm, _),
        icefarm.AsyncClient(farm.url, name="holder") as holder,
        icefarm.AsyncClient(farm.url, name="waiter") as waiter,
    ):
        await until_served(holder)
        await until_served(waiter)
        seconds = [await _round(holder, waiter, boards) for _ in range(_WARM_UP + _ROUNDS)]
    counted = seconds[_WARM_UP:]
    released = f"release of {boards} board{'s' * (boards > 1)} to another client's notice"
    return [
        Figure(f"p50_ms_{boards}", f"{released}, p50", 1e3 * statistics.median(counted), "ms"),
        Figure(f"max_ms_{boards}", f"{released}, longest", 1e3 * max(counted), "ms"),
    ]
