"""For `icefarm doctor`: a session of its own, which tries what a client needs to do.

Nothing that it tries changes anything: commands go to a reservation that does not exist, and what
it asks for is either in the past or refused.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from icefarm.requests import make
from icefarm_broker import (
    BrokerAddress,
    Connection,
    NobodyListensError,
    NotAuthorisedError,
    PresenceMessages,
    Received,
    Requester,
    RequestTimedOutError,
    Synced,
)
from icefarm_schemas import (
    MAX_LEASE,
    Availability,
    CloseStream,
    ControlState,
    DeviceState,
    ExtendRequest,
    HistoryRequest,
    Message,
    OpenStream,
    Operation,
    Presence,
    Reply,
    ResetDevices,
    SessionState,
    utc_now,
)
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    AgentStateTopic,
    AvailabilityTopic,
    CloseTopic,
    ControlStateTopic,
    DeviceStateTopic,
    EvaluateTopic,
    EventsTopic,
    FlashTopic,
    OpenTopic,
    RepliesTopic,
    ReservationStateTopic,
    ResetTopic,
    SessionStateTopic,
    StreamDownTopic,
    StreamUpTopic,
)

_CONNECTING = 3.0
"""Seconds for the first connection."""
_ECHO = 3.0
"""Seconds for what this session publishes to come back to it."""
_ANSWER = 5.0
"""Seconds for the answer to a request."""

READ: dict[type[Topic], str] = {
    ControlStateTopic: "control's state",
    AvailabilityTopic: "what is available",
    AgentStateTopic: "the states of agents",
    DeviceStateTopic: "the states of boards",
    ReservationStateTopic: "the states of reservations",
    RepliesTopic: "replies",
    EventsTopic: "events",
    StreamDownTopic: "streams",
}
"""What a client must be allowed to read."""
_OWN = (RepliesTopic, EventsTopic, StreamDownTopic)
"""Those of which it may read only what is its own."""


@dataclass(frozen=True)
class Answer:
    """A reply, how long it took in seconds, and when it was asked for and came, by this clock."""

    reply: Reply
    seconds: float
    middle: float


@dataclass
class Seen:
    """What is retained, as far as this session may read it."""

    states: Counter[type[Topic]] = field(default_factory=Counter)
    control: ControlState | None = None
    availability: Availability | None = None
    held: int = 0
    """Boards that name a reservation."""

    def take(self, received: Received) -> None:
        """Count a state."""
        if received.message is None:
            return
        self.states[type(received.topic)] += 1
        match received.message:
            case ControlState():
                self.control = received.message
            case Availability():
                self.availability = received.message
            case DeviceState(reservation=str()):
                self.held += 1

    @property
    def is_served(self) -> bool:
        """Whether control says that it serves."""
        return self.control is not None and self.control.status is Presence.ONLINE


class Visit:
    """A session that has logged in; made by `visiting`."""

    def __init__(self, connection: Connection, client: str, session: str) -> None:
        self.client = client
        self.seen = Seen()
        self.refused: list[str] = []
        """What the broker does not allow, in words."""
        self._connection, self._session = connection, session
        self._synced = asyncio.Event()
        self._requester = Requester(
            connection,
            client,
            session,
            lambda: self.seen.is_served,
            lambda operation, reply: None,
            # Nothing is asked twice: that there was no answer at first is worth knowing.
            attempt=2 * _ANSWER,
        )

    async def listen(self) -> None:
        """Take what comes, for ever."""
        async for happening in self._connection:
            match happening:
                case Synced():
                    self._synced.set()
                case Received() if not self._requester.receive(happening):
                    self.seen.take(happening)

    async def try_access(self) -> None:
        """Read and write what a client does; `refused` tells what it may not."""
        echoed = await self._is_echoed()
        if not echoed:
            self.refused.append("read its own sessions' states")
        root, names = self._connection.root, {"client": self.client, "session": self._session}
        for kind, words in READ.items():
            pattern = kind.pattern(root, **(names if kind in _OWN else {}))
            # Without the echo, there is no end of what is retained to wait for.
            subscribe = (
                self._connection.subscribe_and_sync if echoed else self._connection.subscribe
            )
            await self._try(f"read {words}", subscribe(pattern))
        tried = secrets.token_hex(5)
        where = (tried, self.client, self._session, secrets.token_hex(4))
        commands: list[tuple[Topic, Message | bytes]] = [
            (EvaluateTopic(*where), b""),
            (FlashTopic(*where), b""),
            (ResetTopic(*where), ResetDevices()),
            (OpenTopic(*where), OpenStream(device="none")),
            (CloseTopic(*where), CloseStream(device="none")),
            (StreamUpTopic(tried, "none", self.client, self._session), b""),
        ]
        for topic, message in commands:
            words = type(topic).__name__.removesuffix("Topic").lower()
            what = "write streams" if words == "streamup" else f"write the command {words}"
            await self._try(what, self._connection.publish(topic, message))

    async def _is_echoed(self) -> bool:
        try:
            async with asyncio.timeout(_ECHO):
                await self._synced.wait()
        except TimeoutError:
            return False
        return True

    async def _try(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except NotAuthorisedError:
            self.refused.append(what)
        except NobodyListensError:
            return  # Nobody is there to obey it, but it was allowed.

    async def ask(self) -> Answer | None:
        """What control refuses at once, without its database: a lease that is too long."""
        return await self._ask(
            Operation.EXTEND,
            make(ExtendRequest, reservations=(secrets.token_hex(5),), duration=2 * MAX_LEASE),
        )

    async def ask_database(self) -> Answer | None:
        """What control must read its database for: the last thing that happened."""
        return await self._ask(Operation.HISTORY, make(HistoryRequest, limit=1))

    async def _ask(self, operation: Operation, message: Message) -> Answer | None:
        """The answer; None when there is none in time."""
        began, wall = time.monotonic(), time.time()
        try:
            reply = await self._requester.request(operation, message, timeout=_ANSWER)
        except RequestTimedOutError:
            return None
        seconds = time.monotonic() - began
        return Answer(reply, seconds, wall + seconds / 2)

    def judge_silence(self) -> None:
        """A broker may keep quiet about what it does not let through; what is missing tells."""
        seen, availability = self.seen, self.seen.availability
        if (
            availability is not None
            and availability.devices.total
            and not seen.states[DeviceStateTopic]
        ):
            self.refused.append(f"read {READ[DeviceStateTopic]}")
        if seen.states[DeviceStateTopic] and not seen.states[AgentStateTopic]:
            self.refused.append(f"read {READ[AgentStateTopic]}")
        if seen.held and not seen.states[ReservationStateTopic]:
            self.refused.append(f"read {READ[ReservationStateTopic]}")
        if seen.control is None and (availability is not None or seen.states[DeviceStateTopic]):
            self.refused.append(f"read {READ[ControlStateTopic]}")
        if seen.is_served and availability is None:
            self.refused.append(f"read {READ[AvailabilityTopic]}")


def presence_of_visitor(client: str, session: str) -> PresenceMessages:
    """The session of somebody who holds nothing, and so leaves nothing."""
    return PresenceMessages(
        SessionStateTopic(client, session),
        SessionState(status=Presence.ONLINE, grace=0, since=utc_now()),
        SessionState(status=Presence.OFFLINE),
        farewell=b"",
    )


@asynccontextmanager
async def visiting(address: BrokerAddress, client: str) -> AsyncIterator[Visit]:
    """Log in, and be there for as long as the block lasts.

    Raises:
        LoginRefusedError, NotAuthorisedError, BrokerUnreachableError: it is not let in.
    """
    session = secrets.token_hex(4)
    connection = Connection(
        address,
        f"client-{client}-{session}",
        presence_of_visitor(client, session),
        patience=_CONNECTING,
    )
    async with connection:
        visit = Visit(connection, client, session)
        listening = asyncio.create_task(visit.listen())
        try:
            yield visit
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
