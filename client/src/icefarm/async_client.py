"""The asynchronous client: a session of the farm, from which boards are seen and reserved."""

import asyncio
import getpass
import logging
import secrets
from collections.abc import Coroutine, Generator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from icefarm.async_reservation import AsyncReservation
from icefarm.errors import (
    FarmError,
    InvalidRequestError,
    NoSuchReservationError,
    NotAvailableError,
    NotHolderError,
    ReservationEndedError,
    from_broker,
    from_error,
)
from icefarm.view import Agent, Board, View
from icefarm_broker import (
    BrokerAddress,
    BrokerError,
    Connected,
    Connection,
    Invalid,
    PresenceMessages,
    Received,
    Requester,
    Synced,
)
from icefarm_schemas import (
    DEFAULT_DURATION,
    AgentState,
    EndReason,
    ExtendRequest,
    Message,
    OnSessionEnd,
    Operation,
    Presence,
    ReleaseRequest,
    ReservationState,
    ReservationStatus,
    ReserveRequest,
    SessionState,
    check_name,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    ControlStateTopic,
    DeviceStateTopic,
    EventsTopic,
    RepliesTopic,
    ReservationStateTopic,
    SessionStateTopic,
)

DEFAULT_GRACE = 10.0
"""Seconds for which a lost client keeps its reservations."""
_PATIENCE = 3.0
"""Seconds for the first connection."""
_REQUEST_TIMEOUT = 30.0

log = logging.getLogger(__name__)


class AsyncClient:
    """A connection to a farm, made by `async with`.

    Args:
        broker: `mqtt://user:password@host:port`; else the variable ICEFARM_BROKER, else the
            broker on this machine.
        name: who you are, where the broker asks for no login; else this machine's user name.
        grace: seconds for which reservations stay when this process or its network is gone.

    Raises (when it is entered):
        FarmUnreachableError: there is no broker at this address.
        FarmPermissionError: the broker refuses the login.
        InvalidRequestError: the address or the name cannot be one.
    """

    def __init__(
        self, broker: str | None = None, *, name: str | None = None, grace: float = DEFAULT_GRACE
    ) -> None:
        try:
            self._address = BrokerAddress.find(broker)
            self.name = check_name(self._address.user or name or getpass.getuser())
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        except (KeyError, OSError) as error:
            raise InvalidRequestError("this machine's user has no name; give a name") from error
        self.session = secrets.token_hex(4)
        self._grace = grace

    async def __aenter__(self) -> Self:
        root = self._address.root
        names = {"client": self.name, "session": self.session}
        self._connection = Connection(
            self._address,
            f"client-{self.name}-{self.session}",
            PresenceMessages(
                SessionStateTopic(self.name, self.session),
                SessionState(status=Presence.ONLINE, grace=self._grace, since=utc_now()),
                SessionState(status=Presence.OFFLINE),
                will_delay=self._grace,
                farewell=b"",
            ),
            subscriptions=[
                RepliesTopic.pattern(root, **names),
                EventsTopic.pattern(root, **names),
                ControlStateTopic.pattern(root),
            ],
            session_expiry=self._grace,
            patience=_PATIENCE,
        )
        self._view = View()
        self._requester = Requester(
            self._connection, self.name, self.session, lambda: self._view.is_served
        )
        self._synced = asyncio.Event()
        self._reservations: dict[str, AsyncReservation] = {}
        self._sees_all = False
        self._told = -1
        try:
            await self._connection.__aenter__()
        except BrokerError as error:
            raise from_broker(error) from error
        self._listener = asyncio.create_task(self._listen(), name="icefarm listener")
        try:
            await self._while_listening(self._synced.wait())
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session; what it reserved without `keep` is released by that."""
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        await self._connection.__aexit__(kind, error, traceback)

    async def boards(self) -> list[Board]:
        """All boards of the farm, by agent and name."""
        await self._see_all()
        return self._view.list_boards()

    async def agents(self) -> list[Agent]:
        """All agents of the farm, by name."""
        await self._see_all()
        return self._view.list_agents()

    async def is_served(self) -> bool:
        """Whether control is there to answer requests."""
        return self._view.is_served

    async def changed(self) -> None:
        """Return when `boards`, `agents` or `is_served` may tell something new.

        That is, since this returned last; so nothing is missed between asking and waiting.
        """
        await self._see_all()
        while self._view.version == self._told:
            await self._while_listening(self._view.changed())
        self._told = self._view.version

    def reserve(
        self,
        count: int | None = None,
        *,
        behaviour: str = "pulsecount",
        boards: Sequence[str] | None = None,
        arguments: dict[str, Any] | None = None,
        duration: float = DEFAULT_DURATION,
        keep: bool = False,
        wait: float | None = None,
        priority: int = 0,
    ) -> "Reserving":
        """Reserve boards and wait until they are ready: `async with` releases them at its end.

        Args:
            count: how many, of any that offer the behaviour; 1 when no boards are named.
            boards: exactly these, by name.
            arguments: for the behaviour; `variance` takes `waveform: true`.
            duration: seconds until the lease ends unless it is extended.
            keep: hold the boards until they are released or the lease ends, even when this
                process has ended.
            wait: seconds to queue for boards that are not free; otherwise it is an error.
            priority: from -10 to 10; higher ones are served first, equal ones as they came.

        Raises (when awaited or entered):
            NotAvailableError: not enough of them are free, or were within `wait` seconds.
            NoSuchBoardError, NoSuchBehaviourError: the farm does not have what was asked for.
            LimitExceededError: the lease is too long.
            BoardLostError: a board could not be made ready; all are released.
            ControlOfflineError: nobody answers requests.
        """
        try:
            request = ReserveRequest(
                behaviour=behaviour,
                count=1 if count is None and boards is None else count,
                devices=None if boards is None else tuple(boards),
                arguments=arguments or {},
                duration=duration,
                on_session_end=OnSessionEnd.KEEP if keep else OnSessionEnd.RELEASE,
                wait=wait,
                priority=priority,
            )
        except ValidationError as error:
            raise _invalid(error) from error
        return Reserving(self, request)

    async def find_reservation(self, reservation: str) -> "AsyncReservation":
        """One of your reservations, perhaps made by another process with `keep`.

        Raises:
            NoSuchReservationError: it is over, or never was.
            NotHolderError: it is somebody else's.
            NotAvailableError: it is still queued.
        """
        try:
            topic = ReservationStateTopic(reservation)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        await self._subscribe_and_sync(topic.build(self._address.root))
        state = self._view.reservations.get(reservation)
        if state is None:
            raise NoSuchReservationError(f"there is no live reservation {reservation!r}")
        if state.client != self.name:
            raise NotHolderError(
                f"the reservation {reservation!r} is held by {state.client!r}, not by {self.name!r}"
            )
        if state.status is ReservationStatus.QUEUED:
            raise NotAvailableError(
                f"the reservation {reservation!r} is still queued, at position {state.position}"
            )
        return await self._open(state)

    async def extend(
        self, reservation: str, duration: float = DEFAULT_DURATION
    ) -> ReservationState:
        """Let a reservation's lease end `duration` seconds from now.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError, LimitExceededError.
        """
        try:
            request = ExtendRequest(reservation=reservation, duration=duration)
        except ValidationError as error:
            raise _invalid(error) from error
        return await self._request(Operation.EXTEND, request)

    async def release(self, reservation: str) -> ReservationState:
        """Give back a reservation's boards.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError.
        """
        try:
            request = ReleaseRequest(reservation=reservation)
        except ValidationError as error:
            raise _invalid(error) from error
        return await self._request(Operation.RELEASE, request)

    async def _request(self, operation: Operation, message: Message) -> ReservationState:
        try:
            reply = await self._requester.request(operation, message, timeout=_REQUEST_TIMEOUT)
        except BrokerError as error:
            raise from_broker(error) from error
        if reply.error is not None:
            raise from_error(reply.error)
        assert reply.reservation is not None  # A reply has one or the other.
        return reply.reservation

    async def _reserve(self, request: ReserveRequest) -> "AsyncReservation":
        state = await self._request(Operation.RESERVE, request)
        if state.status is ReservationStatus.QUEUED:
            state = await self._until_served(state)
        try:
            reservation = await self._open(state)
            await reservation.wait_until_ready()
        except BaseException:
            # The reason is worth more than what goes wrong on the way out.
            with suppress(FarmError):
                await self.release(state.reservation)
            raise
        return reservation

    async def _until_served(self, state: ReservationState) -> ReservationState:
        """Wait in the queue; leave it when the caller does not wait any longer."""
        reservation = state.reservation
        topic = ReservationStateTopic(reservation).build(self._address.root)
        self._view.expect(state)
        try:
            await self._subscribe_and_sync(topic)
            while True:
                current = self._view.reservations.get(reservation)
                if current is not None and current.status is ReservationStatus.ACTIVE:
                    return current
                ended = self._view.find_end(reservation)
                if ended is not None:
                    raise _not_served(ended)
                await self._while_listening(self._view.changed_or_time())
        except BaseException:
            with suppress(FarmError):
                await self.release(reservation)
            await self._connection.unsubscribe(topic)
            raise

    async def _open(self, state: ReservationState) -> "AsyncReservation":
        reservation = AsyncReservation(self, self._connection, self._view, state)
        self._reservations[state.reservation] = reservation
        self._view.expect(state)
        await self._subscribe_and_sync(*self._topics(state))
        return reservation

    async def _close(self, state: ReservationState) -> None:
        self._reservations.pop(state.reservation, None)
        if self._sees_all:
            return
        # Another reservation may have boards of the same agent.
        needed = {
            topic for held in self._reservations.values() for topic in self._topics(held.state)
        }
        unneeded = [topic for topic in self._topics(state) if topic not in needed]
        if unneeded:
            await self._connection.unsubscribe(*unneeded)

    def _topics(self, state: ReservationState) -> list[str]:
        root = self._address.root
        agents = {device.agent for device in state.devices}
        return [
            ReservationStateTopic(state.reservation).build(root),
            *(AgentStateTopic(agent).build(root) for agent in sorted(agents)),
            *(DeviceStateTopic(d.agent, d.device).build(root) for d in state.devices),
        ]

    async def _see_all(self) -> None:
        if not self._sees_all:
            root = self._address.root
            await self._subscribe_and_sync(
                AgentStateTopic.pattern(root), DeviceStateTopic.pattern(root)
            )
            self._sees_all = True

    async def _subscribe_and_sync(self, *filters: str) -> None:
        try:
            await self._while_listening(self._connection.subscribe_and_sync(*filters))
        except BrokerError as error:
            raise from_broker(error) from error

    async def _while_listening(self, work: Coroutine[Any, Any, Any]) -> None:
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
        async for happening in self._connection:
            match happening:
                case Connected():
                    self._view.reconnected()
                case Synced():
                    self._synced.set()
                case Received(EventsTopic(), event):
                    reservation = self._reservations.get(event.reservation)
                    if reservation is not None:
                        reservation.take(event)
                    else:
                        log.info("an event of a reservation that is over: %s", event)
                case Received():
                    if not self._requester.receive(happening):
                        self._view.observe(happening)
                        self._send_again_to(happening)
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)

    def _send_again_to(self, received: Received) -> None:
        """Whenever an agent says that it is there, it or this client may have been away."""
        match received:
            case Received(AgentStateTopic(agent), AgentState(status=Presence.ONLINE)):
                for held in self._reservations.values():
                    held.send_again(agent)


class Reserving:
    """A reservation on its way: await it, or enter it with `async with`."""

    def __init__(self, client: AsyncClient, request: ReserveRequest) -> None:
        self._client, self._request = client, request

    def __await__(self) -> Generator[Any, None, "AsyncReservation"]:
        return self._client._reserve(self._request).__await__()

    async def __aenter__(self) -> "AsyncReservation":
        self._reservation = await self
        return self._reservation

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._reservation.__aexit__(kind, error, traceback)


def _not_served(ended: ReservationState) -> FarmError:
    if ended.reason is EndReason.NOT_SERVED:
        return NotAvailableError("there were not enough free boards for as long as was waited")
    why = ended.reason.replace("_", " ") if ended.reason else "while this client was away"
    return ReservationEndedError(f"the reservation {ended.reservation} left the queue: {why}")


def _invalid(error: ValidationError) -> InvalidRequestError:
    return InvalidRequestError(
        "; ".join(
            ".".join(map(str, fault["loc"]))
            + ": " * bool(fault["loc"])
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors(include_url=False)
        )
    )
