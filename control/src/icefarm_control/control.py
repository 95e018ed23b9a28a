"""The control process: everything that happens becomes a job, and jobs are done one at a time.

    the broker  ->  Control._listen  ->  jobs  ->  Control._work  ->  Postgres  ->  Mirror
                                          ^
                          Control._watch_time (leases, sessions, old answers)

One job is one transaction. Its effect is mirrored to the broker when it has been committed, and
mirrored again from the database at the next start when the process dies in between.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
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
from icefarm_control import answers, reservations
from icefarm_control.database import Cursor, Database
from icefarm_control.inventory import Inventory
from icefarm_control.mirror import MIRRORED, Mirror
from icefarm_control.refusal import RefusedError
from icefarm_control.reservations import Held
from icefarm_control.sessions import Sessions
from icefarm_schemas import (
    CONTRACT_VERSION,
    ControlState,
    DeviceState,
    Error,
    ErrorCode,
    ExtendRequest,
    Presence,
    ReleaseRequest,
    Reply,
    ReserveRequest,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    ControlStateTopic,
    DeviceStateTopic,
    RepliesTopic,
    RequestTopic,
    SessionStateTopic,
)

Job = Callable[[], Awaitable[None]]

_MOST_JOBS_WAITING = 1000
_LONGEST_PAUSE = 10.0
"""Seconds between looks at the time, which bounds what the jump of a clock can do."""

log = logging.getLogger(__name__)


def _connection(address: BrokerAddress) -> Connection:
    root = address.root
    online = ControlState(
        status=Presence.ONLINE,
        contract=CONTRACT_VERSION,
        version=version("icefarm-control"),
        started_at=utc_now(),
    )
    offline = ControlState(status=Presence.OFFLINE)
    return Connection(
        address,
        "control",
        PresenceMessages(ControlStateTopic(), online, offline, farewell=offline),
        subscriptions=[
            f"$share/control/{RequestTopic.pattern(root)}",
            AgentStateTopic.pattern(root),
            DeviceStateTopic.pattern(root),
            SessionStateTopic.pattern(root),
        ],
        snapshots=[kind.pattern(root) for kind in MIRRORED],
    )


class Control:
    """Answers requests and ends what has to end, until it is cancelled."""

    def __init__(self, database: Database, address: BrokerAddress) -> None:
        self._database = database
        self._connection = _connection(address)
        self._mirror = Mirror(self._connection)
        self._inventory = Inventory()
        self._sessions = Sessions()
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(_MOST_JOBS_WAITING)
        # Requests may come before the retained states have; they wait until these are known.
        self._early: list[Job] | None = []
        self._next_look = 0.0
        self._look_sooner = asyncio.Event()

    async def run(self) -> None:
        """Work for ever. The database must be open.

        Raises:
            TakenOverError: another control process has connected to the broker.
        """
        self._database.on_reconnect = self._load
        await self._database.transaction(self._load)
        async with self._connection, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._work())
            tasks.create_task(self._watch_time())
            tasks.create_task(self._mirror.states.run())

    async def _load(self, cursor: Cursor) -> None:
        self._mirror.load(await reservations.live_reservations(cursor))

    async def _listen(self) -> None:
        async for happening in self._connection:
            self._mirror.states.observe(happening)
            self._inventory.observe(happening)
            match happening:
                case Connected() if self._early is None:
                    self._early = []
                case Synced():
                    early, self._early = self._early or [], None
                    for job in early:
                        await self._jobs.put(job)
                case Received(DeviceStateTopic(agent, device), DeviceState(reservation=serves)):
                    self._mirror.check(agent, device, serves)
                case Received(RequestTopic()) | Invalid(RequestTopic()):
                    await self._add(partial(self._answer, happening))
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)
            if self._sessions.observe(happening):
                self._look_sooner.set()
            # Each job begins with what has been reported; without one, reports need their own.
            if self._inventory.waiting and self._early is None and self._jobs.empty():
                await self._jobs.put(self._write_inventory)

    async def _add(self, job: Job) -> None:
        if self._early is not None:
            self._early.append(job)
        else:
            await self._jobs.put(job)

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            await self._write_inventory()
            await job()
            await self._serve_queue()

    async def _write_inventory(self) -> None:
        if self._inventory.waiting:
            reports = self._inventory.take()
            await self._database.transaction(lambda cursor: self._inventory.write(cursor, reports))

    async def _serve_queue(self) -> None:
        """Whatever the job changed, somebody who waits may have his turn now."""
        if not self._mirror.queued:
            return
        served = await self._database.transaction(reservations.serve_queue)
        for held in served:
            log.info("reservation %s has been served", held.state.reservation)
        # Who was served is active now, and who was behind has moved up.
        await self._database.transaction(self._load)
        if served:
            self._look_sooner.set()

    async def _answer(self, request: Received | Invalid) -> None:
        """Carry out a request and reply to the session that its topic names."""
        assert isinstance(request.topic, RequestTopic)
        topic, delivery = request.topic, request.delivery
        correlation = delivery.correlation or secrets.token_bytes(8)
        if len(correlation) > hashlib.sha256().digest_size:
            # Any length is legal, but not as the key of an index.
            correlation = hashlib.sha256(correlation).digest()
        replies = RepliesTopic(topic.client, topic.session)
        changed: list[Held] = []

        async def carry_out(cursor: Cursor) -> Reply:
            changed.clear()
            before = await answers.remembered(cursor, topic.client, topic.session, correlation)
            if before is not None:
                return before
            try:
                held = await self._decide(cursor, request)
                changed.append(held)
                reply = Reply(reservation=held.state)
            except RefusedError as refusal:
                reply = Reply(error=refusal.error)
            await answers.remember(cursor, topic.client, topic.session, correlation, reply)
            return reply

        try:
            if delivery.response_topic not in (None, replies.build(self._connection.root)):
                raise RefusedError(
                    ErrorCode.INVALID_REQUEST,
                    f"a reply goes to {replies.build(self._connection.root)} and nowhere else",
                )
            reply = await self._database.transaction(carry_out)
        except RefusedError as refusal:
            reply = Reply(error=refusal.error)
        except Exception:
            # A defect in one request must not end the farm; whoever asked is told.
            log.exception("the request on %s failed", delivery.topic)
            changed.clear()
            reply = Reply(
                error=Error(
                    code=ErrorCode.INTERNAL,
                    message="control failed on this request; its log says why",
                )
            )
        for held in changed:
            state = held.state
            log.info("%s: reservation %s of %s", topic.operation, state.reservation, state.client)
            ends_at = state.expires_at or state.waits_until
            if ends_at is not None:
                left = (ends_at - utc_now()).total_seconds()
                if time.monotonic() + left < self._next_look:
                    self._look_sooner.set()
        if reply.error is not None:
            log.info("refused %s: %s", delivery.topic, reply.error.message)
        await asyncio.gather(
            self._reply(replies, reply, delivery.correlation),
            *(self._mirror.apply(held) for held in changed),
        )

    async def _decide(self, cursor: Cursor, request: Received | Invalid) -> Held:
        topic = request.topic
        assert isinstance(topic, RequestTopic)
        if isinstance(request, Invalid):
            raise RefusedError(ErrorCode.INVALID_REQUEST, request.why)
        match request.message:
            case ReserveRequest() as reserve:
                return await reservations.reserve(cursor, topic.client, topic.session, reserve)
            case ExtendRequest() as extend:
                return await reservations.extend(cursor, topic.client, extend)
            case ReleaseRequest() as release:
                return await reservations.release(cursor, topic.client, release)
        raise AssertionError(f"no rule for {topic.operation}")

    async def _reply(self, topic: RepliesTopic, reply: Reply, correlation: bytes | None) -> None:
        try:
            await self._connection.publish(topic, reply, correlation=correlation)
        except BrokerError as error:
            log.info("the reply was not taken: %s", error)

    async def _watch_time(self) -> None:
        """Look at leases and sessions when the next one ends, and now and then."""
        while True:
            looked = asyncio.Event()
            await self._add(partial(self._look_at_time, looked))
            await looked.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._next_look - time.monotonic(), 0)):
                    await self._look_sooner.wait()

    async def _look_at_time(self, looked: asyncio.Event) -> None:
        self._look_sooner.clear()
        transaction = self._database.transaction
        await self._end(reservations.end_expired)
        self._sessions.expect(await transaction(reservations.sessions_that_matter))
        for client, session in self._sessions.take_ended():
            await self._end_session(client, session)
        await transaction(answers.forget_old)
        ends = (
            await transaction(reservations.seconds_to_next_expiry),
            self._sessions.seconds_to_next_end(),
            _LONGEST_PAUSE,
        )
        self._next_look = time.monotonic() + max(min(end for end in ends if end is not None), 0)
        looked.set()

    async def _end_session(self, client: str, session: str) -> None:
        await self._end(lambda cursor: reservations.end_session(cursor, client, session))
        # What it left is its offline state.
        await self._connection.publish(SessionStateTopic(client, session), b"")

    async def _end(self, work: Callable[[Cursor], Awaitable[list[Held]]]) -> None:
        for held in await self._database.transaction(work):
            state = held.state
            log.info(
                "reservation %s of %s ended: %s", state.reservation, state.client, state.reason
            )
            await self._mirror.apply(held)
