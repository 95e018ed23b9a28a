"""Answering requests: any number of control processes do it, each request by one of them.

    the broker  ->  _listen  ->  what has come meanwhile  ->  Postgres  ->  replies

What is done is told by whoever leads (leader.py), not here.
"""

import asyncio
import hashlib
import logging
import math
import secrets
import time
from collections import deque
from importlib.metadata import version

from icefarm_broker import (
    BrokerAddress,
    BrokerError,
    Connection,
    Invalid,
    PresenceMessages,
    Received,
)
from icefarm_control.asked import Asked, carry_out, refuse
from icefarm_control.database import Database
from icefarm_control.leadership import CHANNEL
from icefarm_control.metrics import BROKER, count_request
from icefarm_control.operators import Operator
from icefarm_control.operators import carry_out as operate
from icefarm_control.refusals import RefusedError, check_lease
from icefarm_control.web.seen import Seen
from icefarm_schemas import ControlProcessState, ErrorCode, Message, Reply, utc_now
from icefarm_schemas.topics import ControlProcessTopic, OperatorTopic, RepliesTopic, RequestTopic

_REST = 0.01
"""Seconds between two notices to the leader, which tells together what happens meanwhile."""
_MOST_AT_ONCE = 64
"""Requests in one transaction."""

log = logging.getLogger(__name__)


class Requests:
    """Answers requests until it is cancelled.

    The connections to the database must be open: one carries requests out, the other one explains
    and looks into the past, which may take longer. What the broker says besides is `seen`.
    """

    def __init__(
        self, database: Database, reading: Database, address: BrokerAddress, seen: Seen | None
    ) -> None:
        self._database, self._reading, self._seen = database, reading, seen
        process = secrets.token_hex(4)
        self._connection = Connection(
            address,
            f"control-{process}",
            PresenceMessages(
                ControlProcessTopic(process),
                ControlProcessState(version=version("icefarm-control"), started_at=utc_now()),
                will=b"",
                farewell=b"",
            ),
            # A clean start: nobody listens for a process that is away, and the broker says so.
            subscriptions=[
                *(
                    f"$share/control/{kind.pattern(address.root)}"
                    for kind in (RequestTopic, OperatorTopic)
                ),
                *(Seen.patterns(address.root) if seen is not None else ()),
            ],
        )
        self._waiting: deque[tuple[Asked, bytes | None]] = deque()
        self._came, self._done = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Work for ever."""
        BROKER.watch("requests", self._connection)
        async with self._connection, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(tasks))
            tasks.create_task(self._work(tasks))
            tasks.create_task(self._notify())

    async def _listen(self, tasks: asyncio.TaskGroup) -> None:
        async for happening in self._connection:
            if self._seen is not None:
                self._seen.observe(happening)
            match happening:
                case Received(RequestTopic() | OperatorTopic()):
                    await self._receive(happening, tasks)
                case Invalid(RequestTopic() | OperatorTopic()):
                    await self._receive(happening, tasks)
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)

    async def _receive(self, request: Received | Invalid, tasks: asyncio.TaskGroup) -> None:
        topic, delivery = request.topic, request.delivery
        assert isinstance(topic, RequestTopic | OperatorTopic)
        replies = RepliesTopic(topic.client, topic.session)
        came_at = time.monotonic()
        try:
            if isinstance(request, Invalid):
                raise RefusedError(ErrorCode.INVALID_REQUEST, request.why)
            if delivery.response_topic not in (None, replies.build(self._connection.root)):
                raise RefusedError(
                    ErrorCode.INVALID_REQUEST,
                    f"a reply goes to {replies.build(self._connection.root)} and nowhere else",
                )
            if isinstance(topic, RequestTopic):
                check_lease(request.message)
        except RefusedError as refusal:
            log.info(
                "refused %s: %s",
                delivery.topic,
                refusal,
                extra={"client": topic.client, "code": refusal.error.code},
            )
            reply = Reply(error=refusal.error)
            if isinstance(topic, RequestTopic):
                count_request(topic.operation, reply.encode(), came_at)
            await self._reply(replies, reply.encode(), delivery.correlation)
        else:
            correlation = delivery.correlation or secrets.token_bytes(8)
            if len(correlation) > hashlib.sha256().digest_size:
                # Any length is legal, but not as the key of an index.
                correlation = hashlib.sha256(correlation).digest()
            if isinstance(topic, OperatorTopic):
                who = Operator(topic.client, topic.session, correlation)
                work = self._operate(topic.operation, who, request.message, delivery.correlation)
                tasks.create_task(work)
                return
            asked = Asked(
                topic.client,
                topic.session,
                correlation,
                topic.operation,
                request.message,
                math.inf if delivery.expiry is None else time.monotonic() + delivery.expiry,
            )
            self._waiting.append((asked, delivery.correlation))
            self._came.set()

    async def _operate(
        self, operation: str, who: Operator, request: Message, correlation: bytes | None
    ) -> None:
        try:
            reply = await operate(self._reading, operation, who, request)
        except Exception:
            # A defect in one request must not end the farm; whoever asked runs out of patience.
            log.exception("no answer to %s of the operator %s", operation, who.name)
            return
        await self._reply(RepliesTopic(who.name, who.session), reply.encode(), correlation)

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                count = min(len(self._waiting), _MOST_AT_ONCE)
                batch = [self._waiting.popleft() for _ in range(count)]
                replies = await carry_out(self._database, [asked for asked, _ in batch])
                self._done.set()
                for (asked, correlation), reply in zip(batch, replies, strict=True):
                    if reply is not None:
                        count_request(asked.operation, reply, asked.came_at)
                        tasks.create_task(self._reply(asked.replies, reply, correlation))
                    else:
                        tasks.create_task(self._refuse(asked, correlation))

    async def _notify(self) -> None:
        """Tell the leader that something was done: not with each request, which would wait for it.

        Should this process die in between, the leader finds it at its next look at the time.
        """
        while True:
            await self._done.wait()
            self._done.clear()
            await self._reading.call(f"NOTIFY {CHANNEL}")
            await asyncio.sleep(_REST)

    async def _refuse(self, asked: Asked, correlation: bytes | None) -> None:
        try:
            reply = await refuse(self._database, self._reading, asked)
        except Exception:
            # A defect in one request must not end the farm; whoever asked runs out of patience.
            log.exception(
                "no answer to %s of %s",
                asked.operation,
                asked.client,
                extra={"client": asked.client},
            )
            return
        # What could not be carried out at first may have been since.
        self._done.set()
        count_request(asked.operation, reply, asked.came_at)
        if reply is not None:
            await self._reply(asked.replies, reply, correlation)
        else:
            log.info("%s waits for %s no more", asked.client, asked.operation)

    async def _reply(self, topic: RepliesTopic, reply: bytes, correlation: bytes | None) -> None:
        try:
            await self._connection.publish(topic, reply, correlation=correlation)
        except BrokerError as error:
            log.info("a reply was not taken: %s", error)
