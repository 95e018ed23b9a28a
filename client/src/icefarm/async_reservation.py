"""Boards that are held: used for evaluations, kept longer, given back."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from icefarm.errors import BoardLostError, ReservationEndedError, TimedOutError
from icefarm.evaluating import Evaluating
from icefarm.results import Result, Source
from icefarm.view import View
from icefarm_broker import Connection
from icefarm_schemas import (
    DEFAULT_DURATION,
    CommandRefused,
    DeviceStatus,
    EvaluationFinished,
    ReservationState,
)

if TYPE_CHECKING:
    from icefarm.async_client import AsyncClient

_READY_TIMEOUT = 120.0
"""Seconds; far more than flashing a board twice takes."""


class AsyncReservation:
    """A reservation of this client's. `async with` releases it at its end.

    Attributes:
        id: what the CLI and topics call it.
        boards: the names of its boards.
        behaviour: what its boards do.
        expires_at: when the lease ends unless it is extended, in UTC.
    """

    def __init__(
        self, client: "AsyncClient", connection: Connection, view: View, state: ReservationState
    ) -> None:
        self._client = client
        self._connection = connection
        self._view = view
        self._state = state
        self.id = state.reservation
        self.boards = tuple(device.device for device in state.devices)
        self.behaviour = state.behaviour
        self._released = False
        self._evaluating: Evaluating | None = None

    @property
    def expires_at(self) -> datetime:
        """When the lease ends, in UTC."""
        if self._state.expires_at is None:
            raise RuntimeError("the reservation is still queued, so its lease has not begun")
        return self._state.expires_at

    @property
    def state(self) -> ReservationState:
        """As control told it last."""
        return self._state

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

    async def wait_until_ready(self, timeout: float = _READY_TIMEOUT) -> None:
        """Return when all boards do what they were reserved for.

        Raises:
            BoardLostError: one of them cannot.
            ReservationEndedError: the reservation is over.
            TimedOutError: they took more than `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._all_ready():
                    await self._view.changed_or_time()
        except TimeoutError:
            raise TimedOutError(
                f"the boards of {self.id} are not ready after {timeout:g} s"
            ) from None

    def _all_ready(self) -> bool:
        self.check()
        ready = True
        for device in self._state.devices:
            state = self._view.devices.get((device.agent, device.device))
            if (
                state is not None
                and state.reservation == self.id
                and state.status is DeviceStatus.BROKEN
            ):
                raise BoardLostError(f"the board {device.device!r} is broken: {state.detail}")
            ready = ready and self._view.is_ready(device.agent, device.device, self.id)
        return ready

    def check(self) -> None:
        """Raise ReservationEndedError when the reservation is over."""
        ended = self._view.find_end(self.id)
        if ended is not None:
            why = ended.reason.replace("_", " ") if ended.reason else "while this client was away"
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
            ReservationEndedError: the reservation ended meanwhile.
            BoardLostError: no board is left.
        """
        return self._evaluate(bitstreams, on_every_board)

    async def _evaluate(
        self, bitstreams: Iterable[Source], on_every_board: bool
    ) -> AsyncGenerator[Result, None]:
        if self._evaluating is not None:
            raise RuntimeError(
                "another evaluate of this reservation is under way; give it all bitstreams"
            )
        self._evaluating = Evaluating(
            self, self._connection, self._view, (self._client.name, self._client.session)
        )
        try:
            if not self._evaluating.has_boards():
                # A reservation that was made by a message may still be starting.
                await self.wait_until_ready()
            async for result in self._evaluating.run(bitstreams, on_every_board):
                yield result
        finally:
            self._evaluating = None

    def take(self, event: EvaluationFinished | CommandRefused) -> None:
        """For the client: an event of this reservation has come."""
        if self._evaluating is not None:
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
        self._state = await self._client.extend(self.id, duration)

    async def release(self) -> None:
        """Give the boards back; a second time does nothing.

        Raises:
            ReservationEndedError: the reservation had ended before.
        """
        if not self._released:
            self._released = True
            try:
                await self._client.release(self.id)
            finally:
                await self._client._close(self._state)
