"""Many devices: what control needs for 100, 1,000 and 10,000 of them, in memory and in time."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import psycopg

import icefarm
from benchmarks.farm import Control, Farm, Place, reported_devices, running_control, running_servers
from benchmarks.report import Figure, Target
from benchmarks.requesting import release, reserve, reserve_when_known, until_served
from benchmarks.usage import resident_bytes

PER_AGENT = 100
AGENTS = (1, 10, 100)
_ROUNDS = 300
_WARM_UP = 30
"""Rounds that are not counted."""


@dataclass
class Scale:
    """Control with so many devices; times in seconds.

    Attributes:
        served: from the start of the process until control says that it is there.
        first: from the start of the process until a reservation has been answered.
        reserves: of one client, each.
        memory: bytes of RSS, after the reservations.
    """

    devices: int
    client: icefarm.AsyncClient
    control: Control
    served: float
    first: float
    reserves: list[float] = field(default_factory=list)
    memory: int = 0

    async def reserve_and_release(self) -> None:
        """Once."""
        start = time.perf_counter()
        held = await reserve(self.client)
        self.reserves.append(time.perf_counter() - start)
        await release(self.client, held)

    def weigh(self) -> None:
        """See how much memory control has."""
        self.memory = sum(resident_bytes(pid) for pid in self.control.pids.values())


@asynccontextmanager
async def _running(place: Place, agents: int) -> AsyncIterator[Scale]:
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
        await release(client, held)
        await _until_all_known(farm, devices)
        yield Scale(devices, client, control, control.served - control.started, first)


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
    # What is started the first time on a machine compiles itself, or is read from the disk.
    async with running_servers(place, "scale-warm-up") as farm, running_control(farm):
        pass
    async with AsyncExitStack() as stack:
        scales = [await stack.enter_async_context(_running(place, agents)) for agents in AGENTS]
        # In turn, so that what else this machine does meets one as much as the other.
        for _ in range(_WARM_UP + _ROUNDS):
            for scale in scales:
                await scale.reserve_and_release()
        for scale in scales:
            scale.weigh()
    few, many = scales[0], scales[-1]
    figures = []
    for scale in scales:
        figures += _figures(scale, targets=scale is many)
    ratio = Figure(
        "ratio",
        f"a reservation with {many.devices:,} devices / with {few.devices:,}",
        _median(many) / _median(few),
        target=Target("at most", 2),
    )
    return [*figures, ratio]


def _median(scale: Scale) -> float:
    return statistics.median(scale.reserves[_WARM_UP:])


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
        figure("reserve_ms", "reserve, p50", 1e3 * _median(scale), "ms"),
        figure("memory_mb", "memory of control", scale.memory / 1e6, "MB", 300),
    ]
