"""Boards that are held: used for evaluations, kept longer, given back."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from icefarm.async_board import AsyncHeldBoard
from icefarm.async_console import AsyncConsole
from icefarm.attaching import AsyncAttachment
from icefarm.boards import BoardKey, BoardName, names_of
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT, Commanding
from icefarm.errors import (
    BoardLostError,
    ReservationEndedError,
    TimedOutError,
)
from icefarm.evaluating import Evaluating, Items, WhenLost, each_of
from icefarm.holding import Holding
from icefarm.requests import make
from icefarm.results import Bitstream, Result, Source
from icefarm.usb.server import USBIP_PORT, AsyncUsbServer
from icefarm_schemas import (
    DEFAULT_DURATION,
    ReservationState,
    ResetDevices,
)
from icefarm_schemas.topics import FlashTopic, ResetTopic

if TYPE_CHECKING:
    from icefarm.async_client import AsyncClient


class AsyncReservation:
    """A reservation of this client's. `async with` releases it at its end.

    Attributes:
        id: what the CLI and topics call it.
    """

    def __init__(self, client: "AsyncClient", holding: Holding) -> None:
        self._client, self._holding = client, holding
        self.id = holding.id
        self._boards: dict[BoardKey, AsyncHeldBoard] = {}
        self._released = False

    @property
    def state(self) -> ReservationState:
        """As control told it last."""
        return self._holding.state

    @property
    def boards(self) -> tuple[AsyncHeldBoard, ...]:
        """Its boards; those that were lost or given back are not among them."""
        return tuple(map(self._board, self._holding.boards()))

    def board(self, name: BoardName | None = None) -> AsyncHeldBoard:
        """One of its boards, or the only one.

        Raises:
            InvalidRequestError: no name is given, and there are several.
            NotHolderError: it is not among them.
        """
        return self._board(self._holding.find(name))

    def _board(self, key: BoardKey) -> AsyncHeldBoard:
        return self._boards.setdefault(key, AsyncHeldBoard(self, self._holding, *key))

    def __iter__(self) -> Iterator[AsyncHeldBoard]:
        return iter(self.boards)

    def __len__(self) -> int:
        return len(self.state.devices)

    def __bool__(self) -> bool:
        """True, also when it has lost its boards."""
        return True

    @property
    def failures(self) -> dict[str, BoardLostError]:
        """Why boards were taken out of it, by the board's name."""
        return {key[1]: self._holding.loss_of(key) for key in self._holding.failures}

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
                while not self._holding.all_ready():
                    await self._holding.view.changed()
        except TimeoutError:
            raise TimedOutError(
                f"the boards of {self.id} are not ready after {timeout:g} s"
            ) from None

    def evaluate(
        self, bitstreams: Items, *, on_every_board: bool = False, when_lost: WhenLost = "move"
    ) -> AsyncGenerator[Result, None]:
        """Measure bitstreams and yield each result as it comes, in no particular order.

        Each bitstream goes to whichever board has room, or to all of them with `on_every_board`.
        One that cannot be measured yields a result with its error, and the others go on. While
        this process, control or the broker are away for a time, nothing is lost or comes twice.

        Args:
            bitstreams: paths, bytes, or pairs of one of these and the board, or the boards, that
                it is for. They are read one by one as boards have room, so there may be no end of
                them, and later ones may be made from earlier results. Where none can be made
                before other results have come, an iterator yields None: it is asked again after
                the next result. It may be asynchronous.
            on_every_board: each bitstream that names no boards is measured on all of them.
            when_lost: what becomes of a bitstream whose board is lost: with "move" another
                measures it (unless it was for that board); with "fail" it yields a result with
                BoardLostError, so that it is for you to decide.

        Raises:
            InvalidRequestError: a file cannot be read, or an item is no bitstream.
            NotHolderError: a board that is named was never in the reservation.
            ReservationEndedError: the reservation ended meanwhile; so it does with its last board.
        """
        return self._evaluate(bitstreams, "each" if on_every_board else "any", when_lost)

    async def _evaluate(
        self,
        bitstreams: Items,
        boards: Literal["any", "each"] | Collection[BoardKey],
        when_lost: WhenLost,
    ) -> AsyncGenerator[Result, None]:
        run = Evaluating(self._holding, boards, when_lost)
        self._holding.runs.append(run)
        try:
            async for result in run.run(each_of(bitstreams)):
                yield result
        finally:
            self._holding.runs.remove(run)
            # The others may use what it leaves free.
            self._holding.view.tell()

    def attach(
        self, board: BoardName | None = None, *, timeout: float = READY_TIMEOUT
    ) -> AsyncAttachment:
        """Plug a board's USB port into this machine while `async with` lasts, by its vhci-hcd.

        The board's behaviour is `usbip`; it needs no name where it is the only one. When it is
        lost, with the network for example, programs that use it get an error at once, and it is
        plugged in again as soon as that is possible.
        """
        return AsyncAttachment(self._holding, board, timeout)

    def serve_usb(
        self, boards: Sequence[BoardName] | None = None, *, port: int = USBIP_PORT
    ) -> AsyncUsbServer:
        """Offer boards to the USB/IP clients of this machine, on 127.0.0.1, for `async with`.

        For where `attach` cannot be used. Their behaviour is `usbip`.
        """
        return AsyncUsbServer(self._holding, boards, port)

    def console(
        self, board: BoardName | None = None, *, timeout: float = READY_TIMEOUT
    ) -> AsyncConsole:
        """Open a board's console for `async with`; the board's behaviour is `serial`."""
        return AsyncConsole(self._holding, board, timeout)

    async def flash(
        self,
        uf2: Source,
        boards: Sequence[BoardName] | None = None,
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
        await Commanding(self._holding, boards).run(FlashTopic, firmware, timeout)

    async def reset(
        self, boards: Sequence[BoardName] | None = None, *, timeout: float = READY_TIMEOUT
    ) -> None:
        """Start boards, all of them unless named, anew in what they do, and wait for them.

        One that is exported is unbound and exported again; one that measures gets its firmware
        again. Raises as `flash` does.
        """
        commanding = Commanding(self._holding, boards)
        named = None if boards is None else names_of(boards)
        await commanding.run(ResetTopic, make(ResetDevices, devices=named), timeout)

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
        boards: Sequence[BoardName] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Let boards, all of them unless named, do something else, and wait until they are ready.

        Raises:
            NoSuchBehaviourError: one of them does not offer it.
            NotHolderError: one that is named is not yours.
            BoardLostError, ReservationEndedError, TimedOutError: see `wait_until_ready`.
        """
        for board in boards or ():
            self._holding.find(board)
        await self._client.change(
            *([self.id] if boards is None else []),
            boards=boards,
            behaviour=behaviour,
            arguments=arguments,
        )
        await self.wait_until_ready()

    async def release(self, boards: Sequence[BoardName] | None = None) -> None:
        """Give boards back, all of them unless named; all of them a second time does nothing.

        Raises:
            ReservationEndedError: the reservation had ended before.
            NotHolderError: a board that is named is not yours.
        """
        if boards is not None:
            given = [self._holding.find(board) for board in boards]
            for key in given:
                self._holding.give_back(key)
            await self._client.release(boards=[name for _, name in given])
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
