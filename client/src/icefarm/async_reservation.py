"""Boards that are held: used for evaluations, kept longer, given back."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icefarm.async_console import AsyncConsole
from icefarm.attaching import AsyncAttachment
from icefarm.commanding import Commanding
from icefarm.errors import (
    BoardLostError,
    InvalidRequestError,
    NotHolderError,
    ReservationEndedError,
    TimedOutError,
)
from icefarm.evaluating import BoardKey, Evaluating
from icefarm.requests import make
from icefarm.results import Bitstream, Result, Source
from icefarm.session import HolderEvent, Session
from icefarm.usb.server import USBIP_PORT, AsyncUsbServer
from icefarm_schemas import (
    DEFAULT_DURATION,
    CommandFinished,
    CommandRefused,
    DeviceFailed,
    EvaluationFinished,
    ReservationState,
    ResetDevices,
    StreamClosed,
    StreamOpened,
)
from icefarm_schemas.topics import FlashTopic, ResetTopic

if TYPE_CHECKING:
    from icefarm.async_client import AsyncClient

READY_TIMEOUT = 120.0
"""Seconds; far more than flashing a board twice takes."""
FLASH_TIMEOUT = 300.0
"""Seconds; for large files and many boards of one agent."""

Streaming = StreamOpened | StreamClosed
Hearer = Callable[[CommandFinished | CommandRefused | StreamOpened | StreamClosed], None]


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
        self._hearers: dict[str, Hearer] = {}

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

    def find_board(self, board: str | None) -> BoardKey:
        """For the client: the agent and name of a board, or of the only one.

        Raises:
            InvalidRequestError: no board is named, and there are several.
            NotHolderError: it is not in the reservation.
        """
        keys = [(device.agent, device.device) for device in self.state.devices]
        if board is None:
            if len(keys) != 1:
                names = ", ".join(self.boards)
                raise InvalidRequestError(
                    f"the reservation {self.id} has several boards; say which of {names}"
                )
            return keys[0]
        self._check_own([board])
        return next(key for key in keys if key[1] == board)

    def has(self, key: BoardKey) -> bool:
        """For the client: whether a board is still in it."""
        return any((d.agent, d.device) == key for d in self.state.devices)

    def check_board(self, key: BoardKey) -> None:
        """For the client: raise when a board is not in it any more, or the reservation is over."""
        self.check()
        if not self.has(key):
            raise self.loss_of(key)

    def status_of(self, key: BoardKey) -> str:
        """For the client: what a board does, in a word or more."""
        states = {(board.agent, board.name): board for board in self._view.list_boards()}
        board = states.get(key)
        if board is None:
            return "gone"
        return f"{board.status}: {board.detail}" if board.detail else board.status

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

    def attach(
        self, board: str | None = None, *, timeout: float = READY_TIMEOUT
    ) -> AsyncAttachment:
        """Plug a board's USB port into this machine while `async with` lasts, by its vhci-hcd.

        The board's behaviour is `usbip`; it needs no name where it is the only one. When it is
        lost, with the network for example, programs that use it get an error at once, and it is
        plugged in again as soon as that is possible.
        """
        return AsyncAttachment(self, self._session, board, timeout)

    def serve_usb(
        self, boards: Sequence[str] | None = None, *, port: int = USBIP_PORT
    ) -> AsyncUsbServer:
        """Offer boards to the USB/IP clients of this machine, on 127.0.0.1, for `async with`.

        For where `attach` cannot be used. Their behaviour is `usbip`.
        """
        return AsyncUsbServer(self, self._session, boards, port)

    def console(self, board: str | None = None, *, timeout: float = READY_TIMEOUT) -> AsyncConsole:
        """Open a board's console for `async with`; the board's behaviour is `serial`."""
        return AsyncConsole(self, self._session, board, timeout)

    async def flash(
        self,
        uf2: Source,
        boards: Sequence[str] | None = None,
        *,
        timeout: float = FLASH_TIMEOUT,
    ) -> None:
        """Write firmware of your own to boards, all of them unless named, and wait until they run.

        Args:
            uf2: the path of a UF2 file, or its bytes.
            timeout: seconds for all of them.

        Raises:
            InvalidFirmwareError: the file is no UF2, is damaged, or is for another chip.
            InvalidRequestError: the file cannot be read.
            LimitExceededError: the file is larger than 4 MiB.
            BoardLostError: a board did not come back.
            TimedOutError: a board did not answer within `timeout` seconds.

        When several boards fail, the message names each of them, and `details["boards"]` has the
        code and message of each.
        """
        firmware = Bitstream.load(0, uf2).data
        await Commanding(self, self._session, boards).run(FlashTopic, firmware, timeout)

    async def reset(
        self, boards: Sequence[str] | None = None, *, timeout: float = READY_TIMEOUT
    ) -> None:
        """Start boards, all of them unless named, anew in what they do, and wait for them.

        One that is exported is unbound and exported again; one that measures gets its firmware
        again. Raises as `flash` does.
        """
        commanding = Commanding(self, self._session, boards)
        named = None if boards is None else tuple(boards)
        await commanding.run(ResetTopic, make(ResetDevices, devices=named), timeout)

    @contextmanager
    def hearing(self, name: str, hear: Hearer) -> Iterator[None]:
        """For the client: let `hear` have the events of a command or stream."""
        self._hearers[name] = hear
        try:
            yield
        finally:
            del self._hearers[name]

    def take(self, event: HolderEvent) -> None:
        """For the client: an event of this reservation has come."""
        match event:
            case DeviceFailed():
                key = (event.agent, event.device)
                self.failures[key] = event
                left = tuple(d for d in self.state.devices if (d.agent, d.device) != key)
                self._view.put(self.state.model_copy(update={"devices": left}))
            case EvaluationFinished():
                if self._evaluating is not None:
                    self._evaluating.take(event)
            case _:
                name = event.stream if isinstance(event, Streaming) else event.id
                if name in self._hearers:
                    self._hearers[name](event)
                elif isinstance(event, CommandRefused) and self._evaluating is not None:
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
