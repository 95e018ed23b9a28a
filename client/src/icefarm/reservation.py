"""The synchronous reservation, and what is done with its boards; see `AsyncReservation`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icefarm.async_board import AsyncHeldBoard
from icefarm.async_console import AsyncConsole
from icefarm.async_reservation import AsyncReservation
from icefarm.attaching import AsyncAttachment
from icefarm.board import HeldBoard
from icefarm.boards import BoardName
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT
from icefarm.errors import BoardLostError, FarmError
from icefarm.evaluating import Item, WhenLost
from icefarm.following import follow
from icefarm.results import Result, Source
from icefarm.usb.server import USBIP_PORT, AsyncUsbServer
from icefarm_schemas import DEFAULT_DURATION, ReservationState

if TYPE_CHECKING:
    from icefarm.client import Client


class Reservation:
    """Boards that are held. `with` gives them back. See `AsyncReservation`."""

    def __init__(self, client: "Client", reservation: AsyncReservation) -> None:
        self._client, self._reservation = client, reservation
        self._boards: dict[AsyncHeldBoard, HeldBoard] = {}

    @property
    def id(self) -> str:
        """What the CLI and topics call it."""
        return self._reservation.id

    @property
    def failures(self) -> dict[str, BoardLostError]:
        """Why boards were taken out of it, by the board's name."""
        return self._reservation.failures

    def wait_until_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when all boards do what they should. See `AsyncReservation`."""
        self._client._call(self._reservation.wait_until_ready(timeout))

    @property
    def boards(self) -> tuple[HeldBoard, ...]:
        """Its boards; those that were lost or given back are not among them."""
        return tuple(map(self._board, self._reservation.boards))

    def board(self, name: BoardName | None = None) -> HeldBoard:
        """One of its boards, or the only one. See `AsyncReservation.board`."""
        return self._board(self._reservation.board(name))

    def _board(self, board: AsyncHeldBoard) -> HeldBoard:
        return self._boards.setdefault(board, HeldBoard(self, board))

    def __iter__(self) -> Iterator[HeldBoard]:
        return iter(self.boards)

    def __len__(self) -> int:
        return len(self._reservation)

    def __bool__(self) -> bool:
        """True, also when it has lost its boards."""
        return True

    @property
    def behaviour(self) -> str:
        """What its boards do."""
        return self._reservation.behaviour

    @property
    def expires_at(self) -> datetime:
        """When the lease ends, in UTC."""
        return self._reservation.expires_at

    @property
    def state(self) -> ReservationState:
        """As control told it last."""
        return self._reservation.state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client._call(self._reservation.__aexit__(kind, error, traceback))

    def evaluate(
        self,
        bitstreams: Iterable[Item],
        *,
        on_every_board: bool = False,
        when_lost: WhenLost = "move",
    ) -> Iterator[Result]:
        """Measure bitstreams and yield each result as it comes. See `AsyncReservation`.

        The iterable is read in the caller's thread, whenever a board has room.
        """
        evaluate = partial(
            self._reservation.evaluate, on_every_board=on_every_board, when_lost=when_lost
        )
        return follow(self._client, evaluate, bitstreams)

    def attach(
        self, board: BoardName | None = None, *, timeout: float = READY_TIMEOUT
    ) -> "Attachment":
        """Plug a board into this machine for `with`. See `AsyncReservation.attach`."""
        return Attachment(self._client, self._reservation.attach(board, timeout=timeout))

    def serve_usb(
        self, boards: Sequence[BoardName] | None = None, *, port: int = USBIP_PORT
    ) -> "UsbServer":
        """Offer boards to USB/IP clients here for `with`. See `AsyncReservation.serve_usb`."""
        return UsbServer(self._client, self._reservation.serve_usb(boards, port=port))

    def console(
        self, board: BoardName | None = None, *, timeout: float = READY_TIMEOUT
    ) -> "Console":
        """Open a board's console for `with`. See `AsyncReservation.console`."""
        return Console(self._client, self._reservation.console(board, timeout=timeout))

    def flash(
        self,
        uf2: Source,
        boards: Sequence[BoardName] | None = None,
        *,
        timeout: float = FLASH_TIMEOUT,
    ) -> None:
        """Write firmware of your own to boards. See `AsyncReservation.flash`."""
        self._client._call(self._reservation.flash(uf2, boards, timeout=timeout))

    def reset(
        self, boards: Sequence[BoardName] | None = None, *, timeout: float = READY_TIMEOUT
    ) -> None:
        """Start boards anew in what they do. See `AsyncReservation.reset`."""
        self._client._call(self._reservation.reset(boards, timeout=timeout))

    def extend(self, duration: float = DEFAULT_DURATION) -> None:
        """Let the lease end `duration` seconds from now."""
        self._client._call(self._reservation.extend(duration))

    def change(
        self,
        behaviour: str,
        *,
        boards: Sequence[BoardName] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Let boards do something else, and wait for them. See `AsyncReservation.change`."""
        self._client._call(self._reservation.change(behaviour, boards=boards, arguments=arguments))

    def release(self, boards: Sequence[BoardName] | None = None) -> None:
        """Give boards back, all of them unless named. See `AsyncReservation.release`."""
        self._client._call(self._reservation.release(boards))


class _Block:
    """Something asynchronous that is used in a `with` block."""

    def __init__(self, client: "Client", block: AbstractAsyncContextManager[Any]) -> None:
        self._client, self._block = client, block

    def __enter__(self) -> Self:
        self._client._call(self._block.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client._call(self._block.__aexit__(kind, error, traceback))


class Attachment(_Block):
    """A board that is plugged in while `with` lasts. See `AsyncAttachment`."""

    def __init__(self, client: "Client", attachment: AsyncAttachment) -> None:
        super().__init__(client, attachment)
        self._attachment = attachment

    @property
    def board(self) -> str:
        """The board's name."""
        return self._attachment.board

    @property
    def is_attached(self) -> bool:
        """Whether it is plugged in now."""
        return self._attachment.is_attached

    @property
    def lost(self) -> FarmError | None:
        """Why it is not plugged in now."""
        return self._attachment.lost

    @property
    def ttys(self) -> tuple[str, ...]:
        """Its ttys, such as /dev/ttyACM0; none while it is lost."""
        return self._attachment.ttys

    @property
    def paths(self) -> tuple[str, ...]:
        """All that it brought into /dev: ttys, disks and their partitions."""
        return self._attachment.paths

    def wait(self, timeout: float | None = None) -> None:
        """Return when it is plugged in. See `AsyncAttachment.wait`."""
        self._client._call(self._attachment.wait(timeout))

    def changed(self) -> None:
        """Return when it was plugged in, or lost, or perhaps without a reason."""
        self._client._call(self._attachment.changed())


class UsbServer(_Block):
    """Boards that USB/IP clients can import while `with` lasts. See `AsyncUsbServer`."""

    def __init__(self, client: "Client", server: AsyncUsbServer) -> None:
        super().__init__(client, server)
        self._server = server

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._server.port

    @property
    def busids(self) -> dict[str, str]:
        """What clients call each board, by the board's name."""
        return self._server.busids

    @property
    def imported(self) -> tuple[str, ...]:
        """The boards that clients have now."""
        return self._server.imported

    def changed(self) -> None:
        """Return when a board was imported or lost, or perhaps without a reason."""
        self._client._call(self._server.changed())


class Console(_Block):
    """A board's console while `with` lasts; iterate over it for lines. See `AsyncConsole`."""

    def __init__(self, client: "Client", console: AsyncConsole) -> None:
        super().__init__(client, console)
        self._console = console

    @property
    def board(self) -> str:
        """The board's name."""
        return self._console.board

    def wait(self, timeout: float | None = None) -> None:
        """Return when it is connected. See `AsyncConsole.wait`."""
        self._client._call(self._console.wait(timeout))

    def read(self, timeout: float | None = None) -> bytes:
        """What has come, at least a byte. See `AsyncConsole.read`."""
        return self._client._call(self._console.read(timeout))

    def readline(self, timeout: float | None = None) -> bytes:
        """A line with its newline. See `AsyncConsole.readline`."""
        return self._client._call(self._console.readline(timeout))

    def write(self, data: bytes) -> None:
        """Send bytes to the board. See `AsyncConsole.write`."""
        self._client._call(self._console.write(data))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return self.readline()
