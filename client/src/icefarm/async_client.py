"""The asynchronous client: a session of the farm, from which boards are seen and reserved."""

import asyncio
import getpass
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, overload

from icefarm.async_operator import AsyncOperator
from icefarm.async_reservation import AsyncReservation
from icefarm.boards import BoardName
from icefarm.configuration import find_address
from icefarm.debugging import is_debugging, log_everything
from icefarm.errors import (
    InvalidRequestError,
    NotAvailableError,
    TimedOutError,
    from_broker,
)
from icefarm.handlers import E, Handler, Handlers, check_handler
from icefarm.leasing import Lease
from icefarm.requests import make, reserve_request, selection
from icefarm.reserving import Reserving
from icefarm.session import Session
from icefarm.subscriptions import Subscriptions
from icefarm.termination import AsyncTermination
from icefarm.view import Agent, Board, View
from icefarm_broker import NobodyListensError
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
    utc_now,
)

_SHORTEST_EXTENSION = 60.0
"""Seconds by which the lease of a reservation that was found is extended at least."""
DEFAULT_GRACE = 90.0
"""Seconds for which a lost client keeps its reservations: it may be a minute without network."""


def _own_name() -> str:
    """The user's name; with sudo, which attaching needs, still that of the person."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


class AsyncClient:
    """A connection to a farm, made by `async with`.

    Args:
        farm: `mqtt://user:password@host:port`, or the name of a farm in the configuration file;
            else the variable ICEFARM_BROKER (either of both), else the configuration's default
            farm, else the broker on this machine.
        name: who you are, where the broker asks for no login; else this machine's user name.
        grace: seconds for which reservations stay when this process or its network is gone.
        debug: log every message (logger `icefarm.wire`), and fail at one that is not strictly as
            the contract says; else the variable ICEFARM_DEBUG.

    Raises (when it is entered):
        FarmUnreachableError: there is no broker at this address.
        FarmPermissionError: the broker refuses the login.
        InvalidRequestError: the address or the name cannot be one.
    """

    def __init__(
        self,
        farm: str | None = None,
        *,
        name: str | None = None,
        grace: float = DEFAULT_GRACE,
        debug: bool | None = None,
    ) -> None:
        self._address = find_address(farm)
        try:
            self.name = check_name(self._address.user or name or _own_name())
            """Who this client is in the farm."""
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        except (KeyError, OSError) as error:
            raise InvalidRequestError("this machine's user has no name; give a name") from error
        self._grace = grace
        self._debug = is_debugging() if debug is None else debug
        self._handlers = Handlers()

    async def __aenter__(self) -> Self:
        if self._debug:
            log_everything()
        self._session = Session(
            self._address, self.name, self._grace, handlers=self._handlers, strict=self._debug
        )
        self._subscriptions = Subscriptions(self._session)
        self._told = -1
        self._termination = AsyncTermination()
        self._termination.begin()
        try:
            await self._session.open()
        except BaseException:
            self._termination.end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session; what it reserved without `keep` is released by that.

        Raises:
            SystemExit: SIGTERM, or the end of the terminal, has ended the block.
        """
        try:
            await self._session.close()
        finally:
            self._termination.end()

    @property
    def session(self) -> str:
        """The id of this process in the farm."""
        return self._session.id

    @property
    def operator(self) -> AsyncOperator:
        """What operators may do with everybody's boards."""
        return AsyncOperator(self._session)

    @property
    def _view(self) -> View:
        return self._session.view

    @overload
    def on(self, event: type[E], handler: Handler[E]) -> Handler[E]: ...

    @overload
    def on(self, event: type[E]) -> Callable[[Handler[E]], Handler[E]]: ...

    def on(
        self, event: type[E], handler: Handler[E] | None = None
    ) -> Handler[E] | Callable[[Handler[E]], Handler[E]]:
        """Call a handler, perhaps a coroutine function, with each event of a class.

        The class is one of `FarmEvent`, such as `BoardFailed`. Without a handler it is a decorator
        for one. They are called one after the other; what one raises is logged.

        Raises:
            InvalidRequestError: there is no such event, or the handler does not take one.
        """
        if handler is None:
            return partial(self.on, event)
        check_handler(event, handler)
        self._handlers.add(event, handler)
        return handler

    def off(self, handler: Callable[[Any], object]) -> None:
        """Call a handler no more.

        Raises:
            InvalidRequestError: it handles nothing.
        """
        self._handlers.remove(handler)

    async def boards(self) -> list[Board]:
        """All boards of the farm, by agent and name."""
        await self._subscriptions.see_all()
        return self._view.list_boards()

    async def agents(self) -> list[Agent]:
        """All agents of the farm, by name."""
        await self._subscriptions.see_all()
        return self._view.list_agents()

    async def is_served(self) -> bool:
        """Whether control is there to answer requests."""
        return self._view.is_served

    async def is_connected(self) -> bool:
        """Whether the broker is there; while it is not, all else is as it was before."""
        return self._view.is_connected

    async def changed(self) -> None:
        """Return when `boards`, `agents`, `is_served` or `is_connected` may tell something new.

        That is, since this returned last; so nothing is missed between asking and waiting.
        """
        await self._subscriptions.see_all()
        while self._view.version == self._told:
            await self._session.while_listening(self._view.changed())
        self._told = self._view.version

    def reserve(
        self,
        count: int | None = None,
        *,
        behaviour: str = "pulsecount",
        boards: Sequence[BoardName] | None = None,
        product: str | None = None,
        labels: dict[str, str] | None = None,
        arguments: dict[str, Any] | None = None,
        duration: float = DEFAULT_DURATION,
        keep: bool = False,
        wait: float | None = None,
        priority: int = 0,
        board_grace: float = DEFAULT_DEVICE_GRACE,
        auto_extend: bool = True,
    ) -> Reserving:
        """Reserve boards and wait until they are ready: `async with` releases them at its end.

        Args:
            count: how many, of any that offer the behaviour; 1 when no boards are named.
            boards: exactly these, by name.
            product: only boards of this product.
            labels: only boards that have these labels.
            arguments: for the behaviour; `variance` takes `waveform: true`.
            duration: seconds until the lease ends unless it is extended.
            auto_extend: extend it again and again, for as long as this process lives.
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
        return Reserving(self, self._session, request, auto_extend)

    async def find_reservation(
        self, reservation: str, *, take_over: bool = True, auto_extend: bool = True
    ) -> AsyncReservation:
        """One of your reservations, perhaps made by another process with `keep`.

        From now on this session is told what happens to it, and where it was not made with `keep`,
        it ends with this session. With `take_over=False` it stays the other process's, and this one
        can only use its boards. While this process lives, the lease is extended by as much as is
        left of it now (at least a minute, at most an hour), unless `auto_extend` is False.

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
        if not auto_extend:
            return await self._open(state, None)
        assert state.expires_at is not None  # It is active.
        # By this machine's clock; where that is wrong, control warns in time.
        left = (state.expires_at - utc_now()).total_seconds()
        duration = min(max(left, _SHORTEST_EXTENSION), DEFAULT_DURATION)
        return await self._open(state, Lease(self._session, state, duration, left))

    async def reservations(self, *, everybody: bool = False) -> list[ReservationState]:
        """Your reservations that are not over, queued ones too, the oldest first.

        With `everybody`, those of all clients; from then on `changed` tells of them too.
        """
        return await self._session.list_reservations(everybody=everybody)

    async def extend(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
        duration: float = DEFAULT_DURATION,
    ) -> list[ReservationState]:
        """Let leases end `duration` seconds from now.

        Those of reservations, of the reservations that boards are in, or of everything you hold.
        Where one that is named cannot be extended, none is.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError: one is not yours (now).
            LimitExceededError: the lease would be too long.
        """
        chosen = selection(reservations, boards, everything)
        return await self._request(
            Operation.EXTEND, make(ExtendRequest, **chosen, duration=duration)
        )

    async def release(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
    ) -> list[ReservationState]:
        """Give boards back: those of reservations, some boards, or everything you hold.

        A reservation keeps its other boards when some are named. Where one that is named cannot
        be given back, none is.

        Raises:
            ReservationEndedError, NoSuchReservationError, NotHolderError: one is not yours (now).
        """
        chosen = selection(reservations, boards, everything)
        return await self._request(Operation.RELEASE, make(ReleaseRequest, **chosen))

    async def change(
        self,
        *reservations: str,
        behaviour: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> list[ReservationState]:
        """Let boards do something else, or the same with other arguments, while they stay yours.

        Raises:
            NoSuchBehaviourError: a board does not offer it.
            ReservationEndedError, NoSuchReservationError, NotHolderError: one is not yours (now).
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

    async def _open(self, state: ReservationState, lease: Lease | None) -> AsyncReservation:
        return AsyncReservation(self, await self._subscriptions.hold(state, lease))

    async def _close(self, state: ReservationState) -> None:
        await self._subscriptions.let_go(state)
