"""The control process that leads: it brings the farm's state to Postgres, and that to the broker.

    the broker  ->  _listen  ->  Inventory, Sessions  ->  Postgres
    the time, the queue                               ->  Postgres  ->  Mirror  ->  the broker

Everything works from the latest state, in one loop: whatever woke it, it looks at all of it.
"""

import asyncio
import logging
import time
from contextlib import suppress
from importlib.metadata import version

from icefarm_broker import (
    BrokerAddress,
    BrokerError,
    Connected,
    Connection,
    Invalid,
    PresenceMessages,
    Received,
    Synced,
)
from icefarm_control.clock import Clock
from icefarm_control.database import Database
from icefarm_control.inventory import Inventory
from icefarm_control.leadership import OPERATED, Leadership
from icefarm_control.metrics import BROKER
from icefarm_control.mirror import MIRRORED, Mirror
from icefarm_control.sessions import Sessions
from icefarm_schemas import (
    CONTRACT_VERSION,
    ControlState,
    DeviceState,
    DeviceStatus,
    Presence,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    ControlStateTopic,
    DeviceStateTopic,
    SessionStateTopic,
)

_LONGEST_PAUSE = 10.0
"""Seconds between looks at the time, which bounds what the jump of a clock can do."""
_SOON = 0.2
"""Seconds after a change to the next look at the time, since it may have brought an end nearer;
and the shortest between two looks at what is available."""

log = logging.getLogger(__name__)


class Leader:
    """Leads until it is cancelled, or until it does not have the leadership any more."""

    def __init__(self, database: Database, address: BrokerAddress, leadership: Leadership) -> None:
        root = address.root
        self._database = database
        self._leadership = leadership
        self._online = ControlState(
            status=Presence.ONLINE,
            contract=CONTRACT_VERSION,
            version=version("icefarm-control"),
            started_at=utc_now(),
        )
        offline = ControlState(status=Presence.OFFLINE)
        self._connection = Connection(
            address,
            "control",
            # It is not online before it knows which devices there are.
            PresenceMessages(ControlStateTopic(), birth=offline, will=offline, farewell=offline),
            subscriptions=[
                AgentStateTopic.pattern(root),
                DeviceStateTopic.pattern(root),
                SessionStateTopic.pattern(root),
            ],
            snapshots=[kind.pattern(root) for kind in MIRRORED],
        )
        self._mirror = Mirror(self._connection, database, leadership)
        self._inventory = Inventory()
        self._sessions = Sessions()
        self._clock = Clock()
        self._synced = asyncio.Event()
        self._woken = asyncio.Event()
        self._next_look = 0.0
        self._next_count = 0.0
        self._counted = 0.0
        self._changed = True
        """Whether there may be something to serve or to tell."""
        self._is_operated = True
        """Whether there may be something for agents that operators want."""
        self._next_wishes = 0.0

    async def run(self) -> None:
        """Work for ever.

        Raises:
            LeadershipLostError: another process may lead now.
            TakenOverError: another process has connected to the broker as the leader.
        """
        BROKER.watch("leader", self._connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                # At once, so that a leader whose broker is away is not taken for one that is
                # silent.
                tasks.create_task(self._follow())
                tasks.create_task(self._lead())
        finally:
            BROKER.forget("leader")

    async def _lead(self) -> None:
        async with self._connection, asyncio.TaskGroup() as tasks:
            await self._mirror.load()
            tasks.create_task(self._listen())
            tasks.create_task(self._work(tasks))
            tasks.create_task(self._mirror.run())

    async def _listen(self) -> None:
        async for happening in self._connection:
            self._mirror.states.observe(happening)
            self._inventory.observe(happening)
            match happening:
                case Connected():
                    self._synced.clear()
                case Synced():
                    self._synced.set()
                case Received(DeviceStateTopic(agent, device), DeviceState() as state):
                    self._mirror.check(agent, device, state.reservation)
                    if state.reservation is not None and state.status is DeviceStatus.READY:
                        self._mirror.waits.see_ready(agent, device, state.reservation)
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)
            if self._sessions.observe(happening):
                self._next_look = 0.0
                self._woken.set()
            if self._inventory.waiting:
                self._woken.set()

    async def _follow(self) -> None:
        async for said in self._leadership.transitions():
            self._changed = True
            self._is_operated = self._is_operated or said == OPERATED
            self._woken.set()

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            # Nothing is concluded from what has not come yet.
            await self._synced.wait()
            if self._inventory.waiting:
                await self._write_inventory()
            if time.monotonic() >= self._next_look:
                await self._look_at_time(tasks)
            if self._changed:
                self._changed = False
                await self._tell()
            if self._is_operated or time.monotonic() >= self._next_wishes:
                self._is_operated = False
                # Also what a process could not say before it died.
                self._next_wishes = time.monotonic() + _LONGEST_PAUSE
                await self._mirror.tell_agents(self._inventory.online)
                # Devices may be given away again, or no more.
                self._next_look = min(self._next_look, time.monotonic() + _SOON)
                self._count_soon()
            if time.monotonic() >= self._next_count:
                await self._count()
            await self._wait()

    async def _wait(self) -> None:
        due = min(self._next_look, self._next_count)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(due - time.monotonic(), 0)):
                await self._woken.wait()
        self._woken.clear()

    async def _write_inventory(self) -> None:
        reports = self._inventory.take()
        delay = self._sessions.seconds_to_belief()
        await self._database.transaction(
            lambda cursor: self._inventory.write(cursor, reports, delay)
        )
        self._mirror.states.hold(ControlStateTopic(), self._online)
        self._changed = True
        # A restart may be over, or a board gone that has a note.
        if reports.agents or reports.snapshot is not None or self._mirror.has_wishes:
            self._is_operated = True
        # A device may have been lost, or begun to be away.
        self._next_look = 0.0
        self._count_soon()

    async def _look_at_time(self, tasks: asyncio.TaskGroup) -> None:
        call = self._database.call
        jumped = await self._clock.check(self._database)
        if jumped:
            log.warning("the database's clock was set by %+.0f s; leases keep their length", jumped)
            await self._mirror.load()
        self._sessions.expect(
            {
                (row["client"], row["session"])
                for row in await call(
                    "SELECT DISTINCT client, session FROM reservation "
                    "WHERE status <> 'ended' AND on_session_end = 'release'"
                )
            }
        )
        for client, session in self._sessions.take_ended():
            # The database may have kept us waiting, and the client has come back.
            if not self._sessions.is_online((client, session)):
                await call("SELECT end_session(%(c)s, %(s)s)", {"c": client, "s": session})
                tasks.create_task(self._forget(client, session))
        [row] = await call("SELECT look_at_time() AS seconds")
        # What it has brought is told, and what a process could not say before it died.
        self._changed = True
        ends = (row["seconds"], self._sessions.seconds_to_next_end(), _LONGEST_PAUSE)
        self._next_look = time.monotonic() + max(min(end for end in ends if end is not None), 0)

    async def _forget(self, client: str, session: str) -> None:
        """Remove the offline state that a session has left."""
        if self._sessions.is_online((client, session)):
            return
        try:
            await self._connection.publish(SessionStateTopic(client, session), b"")
        except BrokerError as error:
            log.error("the state of a session that ended is not removed: %s", error)

    async def _tell(self) -> None:
        """Tell what has happened, and serve whoever's turn it is now."""
        happened = await self._mirror.update()
        if self._mirror.queued:
            [row] = await self._database.call("SELECT serve_queue() AS served")
            if row["served"]:
                happened = await self._mirror.update()
        if happened:
            self._next_look = min(self._next_look, time.monotonic() + _SOON)
            self._count_soon()

    def _count_soon(self) -> None:
        self._next_count = max(min(self._next_count, time.monotonic()), self._counted + _SOON)

    async def _count(self) -> None:
        self._counted = time.monotonic()
        self._next_count = float("inf")
        await self._mirror.count()
