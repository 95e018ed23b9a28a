"""One running process in the farm: its connection, what it sees, asks for, and follows."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from icefarm.errors import (
    FarmError,
    InternalFarmError,
    InvalidRequestError,
    NotHolderError,
    from_broker,
    from_error,
)
from icefarm.events import BoardsAvailable, from_message
from icefarm.followed import Followed
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
    Count,
    Event,
    Message,
    Operation,
    OperatorOperation,
    Presence,
    ReleaseRequest,
    Reply,
    ReservationEnded,
    ReservationState,
    ReservationStatus,
    SessionState,
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

log = logging.getLogger(__name__)


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
        self.followed = Followed(self.view, handlers, self.take_over, self.later)
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
            self.view.keep_reservations({*self.followed})
            await self.subscribe(every)
            self._sees_everybody = everybody
            if not everybody:
                await self.connection.unsubscribe(every)
        found = self.view.reservations.values()
        chosen = [state for state in found if everybody or state.client == self.client]
        return sorted(chosen, key=lambda state: state.created_at)

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
                    self.view.begin({*self.followed})
                    self.followed.begin()
                case Disconnected():
                    self.view.disconnect()
                case Synced():
                    self._synced.set()
                    self.view.settle()
                    self.followed.settle()
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
        if isinstance(event, ReservationEnded):
            self.view.end(event.reservation, event.reason)
        else:
            self.followed.take(event)

    def _observe(self, received: Received) -> None:
        match received:
            case Received(ReservationStateTopic(reservation), state) if (
                self._sees_everybody
                and reservation not in self.followed
                and (state is None or state.status is ReservationStatus.ENDED)
            ):
                self.view.forget(reservation)
                return
            case Received(ReservationStateTopic(reservation), None) if (
                reservation in self.followed and reservation not in self.view.ended
            ):
                # Somebody else may have released it; what ends by itself is told before.
                self.followed.ask_after(reservation)
                return
            case Received(ReservationStateTopic(reservation)):
                self.followed.hear(reservation)
        before = self.view.availability
        self.view.observe(received)
        match received:
            case Received(AvailabilityTopic(), Availability() as now):
                self._tell_available(before, now)
            case Received(AgentStateTopic(agent), AgentState(status=status)) if (
                status is not AgentStatus.OFFLINE
            ):
                # It says so whenever it, or this session, has been away.
                self.followed.send_again(agent)

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

    def later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside all else, until the session ends."""
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task
