"""Boards that are held: used for evaluations, kept longer, given back."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icefarm.errors import (
    BoardLostError,
    NotHolderError,
    ReservationEndedError,
    TimedOutError,
)
from icefarm.evaluating import BoardKey, Evaluating
from icefarm.results import Result, Source
from icefarm.session import Session
from icefarm_schemas import (
    DEFAULT_DURATION,
    CommandRefused,
    DeviceFailed,
    EvaluationFinished,
    ReservationState,
)

if TYPE_CHECKING:
    from icefarm.async_client import AsyncClient

READY_TIMEOUT = 120.0
"""Seconds; far more than flashing a board twice takes."""


class AsyncReservation:
    """A reservation of this client's. `async with` releases it at its end.

    Attributes:
        id: what the CLI and topics call it.
    """

    def __init__(self, client: "AsyncClient", session: Session, state: ReservationState) -> None:
        self._client = client
        self._session = session
        self._view = session.view
        self._first_state = state
        self.id = state.reservation
        self.failures: dict[BoardKey, DeviceFailed] = {}
        """Why boards were taken out of it, by agent and board."""
        # The boards of which a loss has not been told to the caller.
        self._expected = {(device.agent, device.device) for device in state.devices}
        self._released = False
        self._evaluating: Evaluating | None = None

    @property
    def state(self) -> ReservationState:
        """As control told it last."""
        return self._view.reservations.get(self.id, self._first_state)

    @property
    def boards(self) -> tuple[str, ...]:
        """The names of its boards; those that were lost or given back are not among them."""
        return tuple(device.device for device in self.state.devices)

    @property
    def behaviour(self) -> str:
        """What its boards do, unless that was changed for single ones."""
        return self.state.behaviour

    @property
    def expires_at(self) -> datetime:
        """When the lease ends unless it is extended, in UTC."""
        expires_at = self.state.expires_at
        if expires_at is None:
            raise RuntimeError("the reservation is still queued, so its lease has not begun")
        return expires_at

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.release()
        except ReservationEndedError:
            # It is over, which is what leaving wants; what the block raised says more.
            return

    async def wait_until_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when all boards do what they were reserved for, or were changed to.

        Raises:
            BoardLostError: one of them was lost meanwhile.
            ReservationEndedError: the reservation is over.
            TimedOutError: they took more than `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._all_ready():
                    await self._view.changed()
        except TimeoutError:
            raise TimedOutError(
                f"the boards of {self.id} are not ready after {timeout:g} s"
            ) from None

    def _all_ready(self) -> bool:
        devices = self.state.devices
        lost = self._expected - {(device.agent, device.device) for device in devices}
        lost |= self._expected & self.failures.keys()
        self._expected -= lost
        if lost:
            raise self.loss_of(min(lost))
        self.check()
        return all(self._view.is_ready(d.agent, d.device, self.id, d.behaviour) for d in devices)

    def loss_of(self, key: BoardKey) -> BoardLostError:
        """Why a board is not in the reservation any more."""
        failure = self.failures.get(key)
        if failure is None:
            why = "is not in the reservation any more"
        elif failure.detail is not None:
            why = f"is {failure.reason.replace('_', ' ')}: {failure.detail}"
        else:
            why = f"is lost: {failure.reason.replace('_', ' ')}"
        return BoardLostError(f"the board {key[1]!r} {why}")

    def check(self) -> None:
        """Raise ReservationEndedError when the reservation is over."""
        if self.id in self._view.ended:
            reason = self._view.ended[self.id]
            why = reason.replace("_", " ") if reason else "while this client was away"
            raise ReservationEndedError(f"the reservation {self.id} is over: {why}")

    def evaluate(
        self, bitstreams: Iterable[Source], *, on_every_board: bool = False
    ) -> AsyncGenerator[Result, None]:
        """Measure bitstreams and yield each result as it comes, in no particular order.

        Each bitstream goes to whichever board has room, or to all of them with `on_every_board`.
        The iterable is read as boards have room, so it may be endless, or make later bitstreams
        from earlier results. A bitstream that cannot be measured yields a result with its error.

        Raises:
            InvalidRequestError: a file cannot be read, or another evaluation is under way.
            ReservationEndedError: the reservation ended meanwhile; so it does with its last board.
        """
        return self._evaluate(bitstreams, on_every_board)

    async def _evaluate(
        self, bitstreams: Iterable[Source], on_every_board: bool
    ) -> AsyncGenerator[Result, None]:
        if self._evaluating is not None:
            raise RuntimeError(
                "another evaluate of this reservation is under way; give it all bitstreams"
            )
        self._evaluating = Evaluating(self, self._session)
        try:
            if not self._evaluating.has_boards():
                # A reservation that was made by a message may still be starting.
                await self.wait_until_ready()
            async for result in self._evaluating.run(bitstreams, on_every_board):
                yield result
        finally:
            self._evaluating = None

    def take(self, event: EvaluationFinished | CommandRefused | DeviceFailed) -> None:
        """For the client: an event of this reservation has come."""
        if isinstance(event, DeviceFailed):
            key = (event.agent, event.device)
            self.failures[key] = event
            left = tuple(d for d in self.state.devices if (d.agent, d.device) != key)
            self._view.put(self.state.model_copy(update={"devices": left}))
        elif self._evaluating is not None:
            self._evaluating.take(event)

    def send_again(self, agent: str) -> None:
        """For the client: commands to an agent, or its results, may have been lost."""
        if self._evaluating is not None:
            self._evaluating.send_again(agent)

    async def extend(self, duration: float = DEFAULT_DURATION) -> None:
        """Let the lease end `duration` seconds from now.

        Raises:
            ReservationEndedError: the reservation is over.
            LimitExceededError: the lease would be too long.
        """
        await self._client.extend(self.id, duration=duration)

    async def change(
        self,
        behaviour: str,
        *,
        boards: Sequence[str] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Let boards, all of them unless named, do something else, and wait until they are ready.

        Raises:
            NoSuchBehaviourError: one of them does not offer it.
            NotHolderError: one that is named is not yours.
            BoardLostError, ReservationEndedError, TimedOutError: see `wait_until_ready`.
        """
        self._check_own(boards or ())
        await self._client.change(
            *([self.id] if boards is None else []),
            boards=boards,
            behaviour=behaviour,
            arguments=arguments,
        )
        await self.wait_until_ready()

    async def release(self, boards: Sequence[str] | None = None) -> None:
        """Give boards back, all of them unless named; all of them a second time does nothing.

        Raises:
            ReservationEndedError: the reservation had ended before.
            NotHolderError: a board that is named is not yours.
        """
        if boards is not None:
            self._check_own(boards)
            self._expected = {key for key in self._expected if key[1] not in boards}
            await self._client.release(boards=boards)
        elif not self._released:
            state = self.state
            try:
                await self._client.release(self.id)
            except ReservationEndedError:
                await self._over(state)
                raise
            await self._over(state)

    async def _over(self, state: ReservationState) -> None:
        self._released = True
        await self._client._close(state)

    def _check_own(self, boards: Sequence[str]) -> None:
        for board in boards:
            if board not in self.boards:
                raise NotHolderError(f"the board {board!r} is not in the reservation {self.id}")
