"""Many devices: what control needs for 100, 1,000 and 10,000 of them, in memory and in time."""

import asyncio
import statistics
import time
from dataclasses import dataclass

import psycopg

import icefarm
from benchmarks.farm import Farm, Place, reported_devices, running_control, running_servers
from benchmarks.report import Figure, Target
from benchmarks.requesting import reserve, reserve_when_known, until_served
from benchmarks.usage import resident_bytes

PER_AGENT = 100
AGENTS = (1, 10, 100)
_ROUNDS = 300
_WARM_UP = 30
"""Rounds that are not counted."""


@dataclass(frozen=True)
class Scale:
    """Control with so many devices; times in seconds.

    Attributes:
        served: from the start of the process until control says that it is there.
        first: from the start of the process until a reservation has been answered.
        reserve: the median, of one client.
        memory: bytes of RSS, after the reservations.
    """

    devices: int
    served: float
    first: float
    reserve: float
    memory: int


async def _at(place: Place, agents: int) -> Scale:
    devices = agents * PER_AGENT
    async with (
        running_servers(place, f"scale-{devices}") as farm,
        reported_devices(farm.url, agents, PER_AGENT),
        icefarm.AsyncClient(farm.url, name="bench") as client,
        running_control(farm) as control,
    ):
        await until_served(client)
        held = await reserve_when_known(client)
        first = time.perf_counter() - control.started
        await client.release(held.reservation)
        await _until_all_known(farm, devices)
        seconds = []
        for _ in range(_WARM_UP + _ROUNDS):
            start = time.perf_counter()
            held = await reserve(client)
            seconds.append(time.perf_counter() - start)
            await client.release(held.reservation)
        return Scale(
            devices,
            control.served - control.started,
            first,
            statistics.median(seconds[_WARM_UP:]),
            sum(resident_bytes(pid) for pid in control.pids.values()),
        )


async def _until_all_known(farm: Farm, devices: int) -> None:
    """Return when control has written all devices into its database."""
    async with await psycopg.AsyncConnection.connect(farm.database, autocommit=True) as database:
        while True:
            rows = await database.execute("SELECT count(*) FROM device")
            if await rows.fetchone() == (devices,):
                return
            await asyncio.sleep(0.05)


async def measure(place: Place) -> list[Figure]:
    """Seconds, milliseconds and megabytes by number of devices, and the ratio of the costs."""
    scales = [await _at(place, agents) for agents in AGENTS]
    few, many = scales[0], scales[-1]
    figures = []
    for scale in scales:
        figures += _figures(scale, targets=scale is many)
    ratio = Figure(
        "ratio",
        f"a reservation with {many.devices:,} devices / with {few.devices:,}",
        many.reserve / few.reserve,
        target=Target("at most", 2),
    )
    return [*figures, ratio]


def _figures(scale: Scale, targets: bool) -> list[Figure]:
    by = f"{scale.devices:,} devices"

    def figure(key: str, what: str, value: float, unit: str, most: float | None = None) -> Figure:
        target = None if most is None or not targets else Target("at most", most)
        return Figure(
            f"{key}_{scale.devices}",
            f"{by}: {what}",
            value,
            unit,
            target,
            table="scale",
            cell=(f"{what}, {unit}", by),
        )

    return [
        figure("served_s", "start of control until it is online", scale.served, "s"),
        figure("first_s", "start of control until the first reservation", scale.first, "s", 5),
        figure("reserve_ms", "reserve, p50", 1e3 * scale.reserve, "ms"),
        figure("memory_mb", "memory of control", scale.memory / 1e6, "MB", 300),
    ]
