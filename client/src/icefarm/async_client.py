"""The asynchronous client: a session of the farm, from which boards are seen and reserved."""

import asyncio
import getpass
import logging
import os
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from icefarm.async_reservation import AsyncReservation
from icefarm.errors import (
    InvalidRequestError,
    NotAvailableError,
    TimedOutError,
    from_broker,
)
from icefarm.requests import make, reserve_request, selection
from icefarm.reserving import Reserving
from icefarm.session import Session
from icefarm.view import Agent, Board, View
from icefarm_broker import (
    BrokerAddress,
    NobodyListensError,
)
from icefarm_schemas import (
    DEFAULT_DEVICE_GRACE,
    DEFAULT_DURATION,
    Availability,
    ChangeRequest,
    ExtendRequest,
    HistoryRequest,
    Message,
    Operation,
    ReleaseRequest,
    ReservationState,
    ReservationStatus,
    Transition,
    Usage,
    UsageRequest,
    check_name,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    DeviceStateTopic,
    ReservationStateTopic,
)

DEFAULT_GRACE = 10.0
"""Seconds for which a lost client keeps its reservations."""
_PATIENCE = 3.0
"""Seconds for the first connection."""
_REQUEST_TIMEOUT = 30.0
_ASK_AGAIN = 1.0

log = logging.getLogger(__name__)


def _own_name() -> str:
    """The user's name; with sudo, which attaching needs, still that of the person."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


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
            self.name = check_name(self._address.user or name or _own_name())
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        except (KeyError, OSError) as error:
            raise InvalidRequestError("this machine's user has no name; give a name") from error
        self._grace = grace

    async def __aenter__(self) -> Self:
        self._session = Session(self._address, self.name, self._grace)
        self._reservations: dict[str, AsyncReservation] = {}
        self._sees_all = False
        self._told = -1
        await self._session.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session; what it reserved without `keep` is released by that."""
        await self._session.close()

    @property
    def session(self) -> str:
        """The id of this process in the farm."""
        return self._session.id

    @property
    def _view(self) -> View:
        return self._session.view

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
            await self._session.while_listening(self._view.changed())
        self._told = self._view.version

    def reserve(
        self,
        count: int | None = None,
        *,
        behaviour: str = "pulsecount",
        boards: Sequence[str] | None = None,
        product: str | None = None,
        labels: dict[str, str] | None = None,
        arguments: dict[str, Any] | None = None,
        duration: float = DEFAULT_DURATION,
        keep: bool = False,
        wait: float | None = None,
        priority: int = 0,
        board_grace: float = DEFAULT_DEVICE_GRACE,
    ) -> Reserving:
        """Reserve boards and wait until they are ready: `async with` releases them at its end.

        Args:
            count: how many, of any that offer the behaviour; 1 when no boards are named.
            boards: exactly these, by name.
            product: only boards of this product.
            labels: only boards that have these labels.
            arguments: for the behaviour; `variance` takes `waveform: true`.
            duration: seconds until the lease ends unless it is extended.
            keep: hold the boards until they are released or the lease ends, even when this
                process has ended.
            wait: seconds to queue for boards that are not free; otherwise it is an error.
            priority: from -10 to 10; higher ones are served first, equal ones as they came.
            board_grace: seconds for which a board may be away, with its agent or unplugged,
                before it counts as lost.

        Raises (when awaited or entered):
            NotAvailableError: not enough of them are free, or were within `wait` seconds.
            NoSuchBoardError, NoSuchBehaviourError: the farm does not have what was asked for.
            LimitExceededError: the lease is too long.
            BoardLostError: a board could not be made ready; all are released.
            ControlOfflineError: nobody answers requests.
        """
        request = reserve_request(
            count,
            behaviour=behaviour,
            boards=boards,
            product=product,
            labels=labels,
            arguments=arguments,
            duration=duration,
            keep=keep,
            wait=wait,
            priority=priority,
            board_grace=board_grace,
        )
        return Reserving(self, self._session, request)

    async def find_reservation(
        self, reservation: str, *, take_over: bool = True
    ) -> AsyncReservation:
        """One of your reservations, perhaps made by another process with `keep`.

        From now on this session is told what happens to it, and where it was not made with `keep`,
        it ends with this session. With `take_over=False` it stays the other process's, and this one
        can only use its boards.

        Raises:
            NoSuchReservationError, ReservationEndedError: it never was, or is over.
            NotHolderError: it is somebody else's.
            NotAvailableError: it is still queued.
        """
        find = self._session.take_over if take_over else self._session.look_at
        state = await find(reservation)
        if state.status is ReservationStatus.QUEUED:
            raise NotAvailableError(
                f"the reservation {reservation!r} is still queued, at position {state.position}"
            )
        return await self._open(state)

    async def reservations(self) -> list[ReservationState]:
        """Your reservations that are not over, queued ones too, the oldest first."""
        return await self._session.list_reservations()

    async def extend(
        self,
        *reservations: str,
        boards: Sequence[str] | None = None,
        everything: bool = False,
        duration: float = DEFAULT_DURATION,
    ) -> list[ReservationState]:
        """Let leases end `duration` seconds from now.

        Those of reservations, of the reservations that boards are in, or of everything you hold.
        Where one that is named cannot be extended, none is.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError, LimitExceededError.
        """
        chosen = selection(reservations, boards, everything)
        return await self._request(
            Operation.EXTEND, make(ExtendRequest, **chosen, duration=duration)
        )

    async def release(
        self,
        *reservations: str,
        boards: Sequence[str] | None = None,
        everything: bool = False,
    ) -> list[ReservationState]:
        """Give boards back: those of reservations, some boards, or everything you hold.

        A reservation keeps its other boards when some are named. Where one that is named cannot
        be given back, none is.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError.
        """
        chosen = selection(reservations, boards, everything)
        return await self._request(Operation.RELEASE, make(ReleaseRequest, **chosen))

    async def change(
        self,
        *reservations: str,
        behaviour: str,
        boards: Sequence[str] | None = None,
        everything: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> list[ReservationState]:
        """Let boards do something else, or the same with other arguments, while they stay yours.

        Raises:
            NoSuchBehaviourError: a board does not offer it.
            ReservationEndedError, NoSuchReservationError, NotHolderError.
        """
        chosen = selection(reservations, boards, everything)
        request = make(ChangeRequest, **chosen, behaviour=behaviour, arguments=arguments or {})
        return await self._request(Operation.CHANGE, request)

    async def availability(self) -> Availability:
        """How many boards are free, of how many, by behaviour and by product.

        Raises:
            ControlOfflineError: control has not told.
        """
        if self._view.availability is None:
            raise from_broker(NobodyListensError("control has not told what is available"))
        return self._view.availability

    async def wait_until_available(
        self, count: int = 1, *, behaviour: str = "pulsecount", timeout: float | None = None
    ) -> None:
        """Return when so many boards with a behaviour are free; somebody else may be faster then.

        To be sure of them, queue: `reserve(..., wait=...)`.

        Raises:
            TimedOutError: they were not within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._available(behaviour) < count:
                    await self._session.while_listening(self._view.changed())
        except TimeoutError:
            raise TimedOutError(
                f"{self._available(behaviour)} boards with {behaviour!r} are free after "
                f"{timeout:g} s, not {count}"
            ) from None

    def _available(self, behaviour: str) -> int:
        counts = self._view.availability.behaviours if self._view.availability else {}
        return counts[behaviour].available if behaviour in counts else 0

    async def history(
        self,
        *,
        client: str | None = None,
        board: str | None = None,
        reservation: str | None = None,
        since: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Transition]:
        """What happened to reservations, newest first; `before` is a number of one of them."""
        request = make(
            HistoryRequest,
            client=client,
            device=board,
            reservation=reservation,
            since=since,
            before=before,
            limit=limit,
        )
        return list((await self._session.ask(Operation.HISTORY, request)).history or ())

    async def usage(self, *, since: datetime | None = None, until: datetime | None = None) -> Usage:
        """How long boards were held, by client and by board."""
        request = make(UsageRequest, since=since, until=until)
        return (await self._session.ask(Operation.USAGE, request)).usage or Usage()

    async def _request(self, operation: Operation, message: Message) -> list[ReservationState]:
        return list((await self._session.ask(operation, message)).reservations or ())

    async def _open(self, state: ReservationState) -> AsyncReservation:
        reservation = AsyncReservation(self, self._session, state)
        self._reservations[state.reservation] = reservation
        self._session.follow(state.reservation, reservation)
        await self._session.subscribe(*self._topics(state))
        self._session.ask_if_silent(state.reservation)
        return reservation

    async def _close(self, state: ReservationState) -> None:
        self._reservations.pop(state.reservation, None)
        self._session.unfollow(state.reservation)
        if self._sees_all:
            return
        # Another reservation may have boards of the same agent.
        needed = {
            topic for held in self._reservations.values() for topic in self._topics(held.state)
        }
        unneeded = [topic for topic in self._topics(state) if topic not in needed]
        if unneeded:
            await self._session.connection.unsubscribe(*unneeded)

    def _topics(self, state: ReservationState) -> list[str]:
        root = self._session.root
        agents = {device.agent for device in state.devices}
        return [
            ReservationStateTopic(state.reservation).build(root),
            *(AgentStateTopic(agent).build(root) for agent in sorted(agents)),
            *(DeviceStateTopic(d.agent, d.device).build(root) for d in state.devices),
        ]

    async def _see_all(self) -> None:
        if not self._sees_all:
            root = self._session.root
            await self._session.subscribe(
                AgentStateTopic.pattern(root), DeviceStateTopic.pattern(root)
            )
            self._sees_all = True
