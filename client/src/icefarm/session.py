"""One running process in the farm: its connection, what it sees, asks for, and follows."""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, Protocol

from icefarm.errors import (
    FarmError,
    InternalFarmError,
    InvalidRequestError,
    NoSuchReservationError,
    NotHolderError,
    ReservationEndedError,
    end_reason,
    from_broker,
    from_error,
)
from icefarm.events import BoardsAvailable, from_message
from icefarm.events import ReservationEnded as ReservationIsOver
from icefarm.handlers import Handlers
from icefarm.requests import make
from icefarm.view import View
from icefarm_broker import (
    KEEPALIVE,
    BrokerAddress,
    BrokerError,
    Connected,
    Connection,
    Disconnected,
    Invalid,
    PresenceMessages,
    Received,
    Requester,
    Synced,
)
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    Availability,
    CommandFinished,
    CommandRefused,
    Count,
    DeviceFailed,
    EvaluationFinished,
    Event,
    Message,
    Operation,
    OperatorOperation,
    Presence,
    ReleaseRequest,
    Reply,
    ReservationEnded,
    ReservationExpiring,
    ReservationState,
    ReservationStatus,
    SessionState,
    StreamClosed,
    StreamOpened,
    TakeOverRequest,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    AvailabilityTopic,
    ControlStateTopic,
    EventsTopic,
    RepliesTopic,
    ReservationStateTopic,
    SessionStateTopic,
)

_PATIENCE = 3.0
"""Seconds for the first connection."""
_REQUEST_TIMEOUT = 30.0
_ASK_AGAIN = 1.0
_SILENT = 2.0
"""Seconds without a word of a reservation that has been made, or is waited for."""

log = logging.getLogger(__name__)


HolderEvent = (
    EvaluationFinished
    | CommandFinished
    | CommandRefused
    | StreamOpened
    | StreamClosed
    | DeviceFailed
    | ReservationExpiring
)
"""What a reservation is told: answers to its commands, the loss of a board, the lease's end."""


class Follower(Protocol):
    """Who hears what happens to a reservation."""

    def take(self, event: HolderEvent) -> None:
        """An event of the reservation has come."""

    def send_again(self, agent: str) -> None:
        """Commands to an agent, or its results, may have been lost."""


class Session:
    """The session of a client; its end, told by the broker, ends what it reserved."""

    def __init__(
        self,
        address: BrokerAddress,
        client: str,
        grace: float,
        *,
        handlers: Handlers,
        strict: bool = False,
    ) -> None:
        self.client, self.id = client, secrets.token_hex(4)
        self._handlers, self._strict = handlers, strict
        self.root = address.root
        self.view = View()
        names = {"client": self.client, "session": self.id}
        self.connection = Connection(
            address,
            f"client-{self.client}-{self.id}",
            PresenceMessages(
                SessionStateTopic(self.client, self.id),
                SessionState(status=Presence.ONLINE, grace=grace, since=utc_now()),
                SessionState(status=Presence.OFFLINE),
                will_delay=grace,
                farewell=b"",
            ),
            subscriptions=[
                RepliesTopic.pattern(self.root, **names),
                EventsTopic.pattern(self.root, **names),
                ControlStateTopic.pattern(self.root),
                AvailabilityTopic.pattern(self.root),
            ],
            session_expiry=grace,
            patience=_PATIENCE,
            # Who may be away for a short time only wants to be missed soon.
            keepalive=max(1, min(KEEPALIVE, round(grace / 2))),
            strict=strict,
        )
        self._requester = Requester(
            self.connection, self.client, self.id, lambda: self.view.is_served, self._undo
        )
        self._synced = asyncio.Event()
        self._followed: dict[str, Follower | None] = {}
        # Of these, nothing has been heard since they are followed.
        self._unheard: set[str] = set()
        # And of these, since the connection was made again.
        self._missed: set[str] = set()
        # Losses that were told of reservations before they are followed.
        self._early: defaultdict[str, list[DeviceFailed]] = defaultdict(list)
        self._asking: set[asyncio.Task[None]] = set()
        self._sees_everybody = False

    async def open(self) -> None:
        """Connect, and wait until the state of the farm is known.

        Raises:
            FarmUnreachableError, FarmPermissionError: there is no broker, or it refuses.
        """
        try:
            await self.connection.__aenter__()
        except BrokerError as error:
            raise from_broker(error) from error
        self._listener = asyncio.create_task(self._listen(), name="icefarm listener")
        # Whoever waits for a change looks whether it has failed.
        self._listener.add_done_callback(lambda _: self.view.tell())
        self.later(self._handlers.run())
        try:
            await self.while_listening(self._synced.wait())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the session; what it reserved without `keep` is released by that."""
        tasks = [self._listener, *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.connection.__aexit__(None, None, None)

    def check(self) -> None:
        """Raise what ended the connection, if anything did."""
        if self._listener.done():
            self._listener.result()

    async def ask(self, operation: Operation | OperatorOperation, message: Message) -> Reply:
        """Ask control, by the operation as a client or an operator, and return its reply.

        Raises:
            FarmError: it refused, or did not answer.
        """
        try:
            reply = await self._requester.request(
                operation,
                message,
                timeout=_REQUEST_TIMEOUT,
                as_operator=isinstance(operation, OperatorOperation),
            )
        except BrokerError as error:
            raise from_broker(error) from error
        if reply.error is not None:
            raise from_error(reply.error)
        if isinstance(operation, Operation):
            for state in reply.reservations or ():
                self.view.put(state)
        return reply

    async def take_over(self, reservation: str) -> ReservationState:
        """Become the one who hears of a reservation, and learn its state.

        Raises:
            NoSuchReservationError, ReservationEndedError, NotHolderError.
        """
        request = make(TakeOverRequest, reservations=(reservation,))
        reply = await self.ask(Operation.TAKE_OVER, request)
        assert reply.reservations is not None  # Each operation has its kind of reply.
        return reply.reservations[0]

    async def look_at(self, reservation: str) -> ReservationState:
        """The state of one of this client's reservations; the session that has it keeps it.

        Raises:
            NoSuchReservationError, ReservationEndedError, NotHolderError.
        """
        try:
            topic = ReservationStateTopic(reservation).build(self.root)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        await self.subscribe(topic)
        state = self.view.reservations.get(reservation)
        if state is None:
            # Control knows why; or that it is there, whatever the broker has forgotten.
            return await self.take_over(reservation)
        if state.client != self.client:
            await self.connection.unsubscribe(topic)
            raise NotHolderError(
                f"the reservation {reservation!r} is held by somebody else, not by {self.client!r}"
            )
        return state

    async def list_reservations(self, *, everybody: bool) -> list[ReservationState]:
        """Reservations that are not over, the oldest first: this client's, or everybody's.

        After the latter was asked for, the view has all of them, as they change.
        """
        if not self._sees_everybody:
            every = ReservationStateTopic.pattern(self.root)
            # Of those that are not followed, an end may have been missed.
            self.view.keep_reservations(self._followed.keys())
            await self.subscribe(every)
            self._sees_everybody = everybody
            if not everybody:
                await self.connection.unsubscribe(every)
        found = self.view.reservations.values()
        chosen = [state for state in found if everybody or state.client == self.client]
        return sorted(chosen, key=lambda state: state.created_at)

    def follow(self, reservation: str, follower: Follower | None = None) -> None:
        """Let `follower` hear of a reservation, and ask after it when that may be missed."""
        self._followed[reservation] = follower
        self._unheard.add(reservation)
        if follower is not None:
            for event in self._early.pop(reservation, ()):
                follower.take(event)

    def unfollow(self, reservation: str) -> None:
        """Undo `follow`."""
        self._followed.pop(reservation, None)
        self._unheard.discard(reservation)

    def ask_if_silent(self, reservation: str) -> None:
        """Ask after a reservation if its state does not come: it may have ended before."""

        async def ask() -> None:
            await asyncio.sleep(_SILENT)
            if reservation in self._unheard:
                await self._ask_after(reservation)

        self.later(ask())

    async def subscribe(self, *filters: str) -> None:
        """Subscribe, and return when what is retained there has been seen."""
        try:
            await self.while_listening(self.connection.subscribe_and_sync(*filters))
        except BrokerError as error:
            raise from_broker(error) from error

    async def while_listening(self, work: Coroutine[Any, Any, Any]) -> None:
        """Wait for what only the listener can bring about, unless it has failed."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, self._listener], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._listener.result()
        finally:
            task.cancel()
        await task

    async def _listen(self) -> None:
        async for happening in self.connection:
            match happening:
                case Connected():
                    self.view.begin(self._followed)
                    self._missed = set(self._followed)
                case Disconnected():
                    self.view.disconnect()
                case Synced():
                    self._synced.set()
                    self.view.settle()
                    for reservation in self._missed:
                        self._ask_later(reservation)
                    self._missed = set()
                case Received(EventsTopic(), event):
                    self._take(event)
                case Received():
                    if not self._requester.receive(happening):
                        self._observe(happening)
                case Invalid(_, why, delivery) if self._strict:
                    raise InternalFarmError(
                        f"a message on {delivery.topic} is not as the contract says: {why} "
                        "(without debug it would only be logged and ignored)"
                    )
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)

    def _take(self, event: Event) -> None:
        happened = from_message(event)
        is_known = isinstance(event, ReservationEnded) and event.reservation in self.view.ended
        if happened is not None and not is_known:
            self._handlers.put(happened)
        follower = self._followed.get(event.reservation)
        match event:
            case ReservationEnded():
                self.view.end(event.reservation, event.reason)
            case _ if follower is not None and isinstance(event, HolderEvent):
                follower.take(event)
            case DeviceFailed():
                self._early[event.reservation].append(event)
            case EvaluationFinished() | CommandFinished() | CommandRefused():
                log.info("a result that nobody here waits for: %s", event)

    def _observe(self, received: Received) -> None:
        match received:
            case Received(ReservationStateTopic(reservation), state) if (
                self._sees_everybody
                and reservation not in self._followed
                and (state is None or state.status is ReservationStatus.ENDED)
            ):
                self.view.forget(reservation)
                return
            case Received(ReservationStateTopic(reservation), None) if (
                reservation in self._followed and reservation not in self.view.ended
            ):
                # Somebody else may have released it; what ends by itself is told before.
                self._ask_later(reservation)
                return
            case Received(ReservationStateTopic(reservation)):
                self._unheard.discard(reservation)
                self._missed.discard(reservation)
        before = self.view.availability
        self.view.observe(received)
        match received:
            case Received(AvailabilityTopic(), Availability() as now):
                self._tell_available(before, now)
            case Received(AgentStateTopic(agent), AgentState(status=status)) if (
                status is not AgentStatus.OFFLINE
            ):
                # It says so whenever it, or this session, has been away.
                for follower in self._followed.values():
                    if follower is not None:
                        follower.send_again(agent)

    def _tell_available(self, before: Availability | None, now: Availability) -> None:
        none = Count(available=0, total=0)
        if before is not None and any(
            count.available > before.behaviours.get(name, none).available
            for name, count in now.behaviours.items()
        ):
            free = {name: count.available for name, count in now.behaviours.items()}
            self._handlers.put(BoardsAvailable(now.devices.available, free))

    def _undo(self, operation: str, reply: Reply) -> None:
        """Give back what was reserved when nobody waited for it any more."""
        if operation == Operation.RESERVE:
            for state in reply.reservations or ():
                self.later(self._give_back(state.reservation))

    async def _give_back(self, reservation: str) -> None:
        log.info("giving back %s, which came too late", reservation)
        try:
            await self.ask(Operation.RELEASE, make(ReleaseRequest, reservations=(reservation,)))
        except FarmError as error:
            log.warning("%s, which came too late, is not given back: %s", reservation, error)

    def _ask_later(self, reservation: str) -> None:
        self.later(self._ask_after(reservation))

    def later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside all else, until the session ends."""
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _ask_after(self, reservation: str) -> None:
        """What is not retained may be over, or the broker has forgotten it: control knows."""
        while reservation in self._followed:
            try:
                await self.take_over(reservation)
            except (ReservationEndedError, NoSuchReservationError) as error:
                if reservation not in self.view.ended:
                    self._handlers.put(ReservationIsOver(reservation, end_reason(error)))
                self.view.end(reservation, end_reason(error))
            except FarmError as error:
                log.info("the state of %s is not known yet: %s", reservation, error)
                await asyncio.sleep(_ASK_AGAIN)
                continue
            return
