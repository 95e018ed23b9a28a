"""The parts of a farm: broker and database here, control as a process, devices that are reported.

What is measured is control, so the devices have no boards: a connection says for their agents that
they are available, and nobody carries out what they are assigned.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

import icefarm
from benchmarks.processes import Profiling, Running, running
from benchmarks.requesting import release, reserve_when_known, until_served
from benchmarks.usage import postgres_pid
from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_control.embedded import EmbeddedDatabase
from icefarm_schemas import AgentState, AgentStatus, DeviceState, DeviceStatus, utc_now
from icefarm_schemas.topics import AgentStateTopic, DeviceStateTopic

_CONNECTIONS = 4
"""That report all devices between them."""


@dataclass(frozen=True)
class Place:
    """Where a benchmark runs its parts.

    Attributes:
        directory: for logs, and what the parts keep.
        postgres: runs already; each farm has a database of its own on it.
        postgres_data: its data directory.
        controls: how many control processes a farm has.
    """

    directory: Path
    postgres: EmbeddedDatabase
    postgres_data: Path
    controls: int
    profiling: Profiling


@dataclass(frozen=True)
class Farm:
    """A broker and an empty database, both of this farm alone."""

    name: str
    place: Place
    broker: Mosquitto
    database: str

    @property
    def url(self) -> str:
        """Of the broker."""
        return self.broker.url

    @property
    def logs(self) -> Path:
        """Where its processes write what they have to say."""
        return self.place.directory / self.name / "logs"

    @property
    def server_pids(self) -> dict[str, int]:
        """The processes that are not ours, by name."""
        assert self.broker.process is not None
        return {
            "mosquitto": self.broker.process.pid,
            "postgres": postgres_pid(self.place.postgres_data),
        }


@asynccontextmanager
async def running_servers(
    place: Place, name: str, broker: Callable[[Path, int], Mosquitto] = Mosquitto
) -> AsyncIterator[Farm]:
    """A broker and a database for a farm of this name, as long as the block."""
    url = place.postgres.url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"'.encode())
    with broker(place.directory / name / "broker", free_port()) as mosquitto:
        yield Farm(name, place, mosquitto, url.replace("/postgres?", f"/{name}?"))


@dataclass(frozen=True)
class Control:
    """The control processes of a farm.

    `started` is when the first was, and `served` when control said that it was there, both by
    time.perf_counter().
    """

    processes: tuple[Running, ...]
    started: float
    served: float

    @property
    def pids(self) -> dict[str, int]:
        """Of each, by name."""
        return {process.name: process.pid for process in self.processes}


@asynccontextmanager
async def running_control(farm: Farm, *, web: bool = False) -> AsyncIterator[Control]:
    """Control, from when it says that it is there until the block ends.

    With `web`, it is one process, which serves the dashboard at a port that it logs.
    """
    place = ("--web", "127.0.0.1:0") if web else ("--no-web",)
    profiling = farm.place.profiling
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(icefarm.AsyncClient(farm.url, name="watcher"))
        started = time.perf_counter()
        processes = []
        for number in range(1 if web else farm.place.controls):
            name = f"control-{number}" if number else "control"
            command = profiling.script(
                f"{farm.name}-{name}",
                "icefarm-control",
                *("--broker", farm.url, "--database", farm.database, *place),
            )
            processes.append(
                await stack.enter_async_context(running(name, command, farm.logs, spoken_to=False))
            )
        await until_served(watcher)
        yield Control(tuple(processes), started, time.perf_counter())


@asynccontextmanager
async def reported_devices(url: str, agents: int, devices: int) -> AsyncIterator[None]:
    """So many agents that say they are there, each with so many devices that are available."""
    address = BrokerAddress.parse(url)
    online = AgentState(status=AgentStatus.ONLINE, behaviours=("pulsecount",), devices=devices)
    state = DeviceState(
        status=DeviceStatus.AVAILABLE,
        product="reported",
        behaviours=("pulsecount",),
        since=utc_now(),
    )
    names = [f"agent-{number}" for number in range(agents)]

    async def report(connection: Connection, mine: list[str]) -> None:
        for agent in mine:
            await connection.publish(AgentStateTopic(agent), online)
            await asyncio.gather(
                *(
                    connection.publish(DeviceStateTopic(agent, f"{agent}-{number}"), state)
                    for number in range(devices)
                )
            )

    async with AsyncExitStack() as stack:
        reports = []
        for number in range(min(_CONNECTIONS, agents)):
            mine = names[number::_CONNECTIONS]
            presence = PresenceMessages(
                AgentStateTopic(mine[0]), online, AgentState(status=AgentStatus.OFFLINE)
            )
            connection = await stack.enter_async_context(
                Connection(address, f"reporter-{number}", presence)
            )
            reports.append(report(connection, mine))
        await asyncio.gather(*reports)
        yield


@asynccontextmanager
async def running_reported_farm(
    place: Place, name: str, *, boards: int
) -> AsyncIterator[tuple[Farm, Control]]:
    """Control with so many devices of one agent, all of which it knows."""
    async with (
        running_servers(place, name) as farm,
        reported_devices(farm.url, 1, boards),
        running_control(farm) as control,
    ):
        async with icefarm.AsyncClient(farm.url, name="first") as client:
            await until_served(client)
            all_of_them = await reserve_when_known(client, boards)
            await release(client, all_of_them)
        yield farm, control
