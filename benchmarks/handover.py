"""From one client's release to another's notice: how long a board is nobody's while somebody waits.

One client holds all boards; another waits in the queue for one of them, and sees its reservation's
retained state become active.
"""

import asyncio
import statistics
import time

import icefarm
from benchmarks.farm import Place, running_reported_farm
from benchmarks.report import Figure
from benchmarks.requesting import (
    reserve,
    until_active,
    until_known,
    until_served,
)

_BOARDS = 64
_ROUNDS = 200
_WARM_UP = 10
"""Rounds that are not counted."""
_WAIT = 30.0


async def _round(holder: icefarm.AsyncClient, waiter: icefarm.AsyncClient) -> float:
    """Seconds from the release's sending until who waits knows that it is served."""
    held = await reserve(holder, _BOARDS)
    queued = await reserve(waiter, 1, wait=_WAIT)
    waiting = asyncio.create_task(until_active(waiter, queued))
    await until_known(waiter, queued)
    start = time.perf_counter()
    releasing = asyncio.create_task(holder.release(held.reservation))
    await waiting
    seconds = time.perf_counter() - start
    await releasing
    await waiter.release(queued.reservation)
    return seconds


async def measure(place: Place) -> list[Figure]:
    """The median and the longest, in milliseconds."""
    async with (
        running_reported_farm(place, "handover", boards=_BOARDS) as (farm, _),
        icefarm.AsyncClient(farm.url, name="holder") as holder,
        icefarm.AsyncClient(farm.url, name="waiter") as waiter,
    ):
        await until_served(holder)
        await until_served(waiter)
        seconds = [await _round(holder, waiter) for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]
    return [
        Figure("p50_ms", "release to another client's notice, p50", _ms(seconds), "ms"),
        Figure("max_ms", f"the longest of {_ROUNDS}", 1e3 * max(seconds), "ms"),
    ]


def _ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)
