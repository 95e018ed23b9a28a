"""The synchronous reservation, and what is done with its boards; see `AsyncReservation`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icefarm.async_console import AsyncConsole
from icefarm.async_reservation import FLASH_TIMEOUT, READY_TIMEOUT, AsyncReservation
from icefarm.attaching import AsyncAttachment
from icefarm.errors import FarmError
from icefarm.evaluating import BoardKey
from icefarm.results import Result, Source
from icefarm.usb.server import USBIP_PORT, AsyncUsbServer
from icefarm_schemas import DEFAULT_DURATION, DeviceFailed, ReservationState

if TYPE_CHECKING:
    from icefarm.client import Client


class Reservation:
    """Boards that are held. `with` gives them back. See `AsyncReservation`."""

    def __init__(self, client: "Client", reservation: AsyncReservation) -> None:
        self._client, self._reservation = client, reservation

    @property
    def id(self) -> str:
        """What the CLI and topics call it."""
        return self._reservation.id

    @property
    def failures(self) -> dict[BoardKey, DeviceFailed]:
        """Why boards were taken out of it, by agent and board."""
        return self._reservation.failures

    def wait_until_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when all boards do what they should. See `AsyncReservation`."""
        self._client._call(self._reservation.wait_until_ready(timeout))

    @property
    def boards(self) -> tuple[str, ...]:
        """The names of its boards."""
        return self._reservation.boards

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
        self, bitstreams: Iterable[Source], *, on_every_board: bool = False
    ) -> Iterator[Result]:
        """Measure bitstreams and yield each result as it comes. See `AsyncReservation`.

        The iterable is read in the client's own thread.
        """
        results = self._reservation.evaluate(bitstreams, on_every_board=on_every_board)

        async def following() -> Result | None:
            return await anext(results, None)

        try:
            while (result := self._client._call(following())) is not None:
                yield result
        finally:
            # One that was left half-way may be collected after its client has closed.
            if self._client._is_open:
                self._client._call(results.aclose())

    def attach(self, board: str | None = None, *, timeout: float = READY_TIMEOUT) -> "Attachment":
        """Plug a board into this machine for `with`. See `AsyncReservation.attach`."""
        return Attachment(self._client, self._reservation.attach(board, timeout=timeout))

    def serve_usb(
        self, boards: Sequence[str] | None = None, *, port: int = USBIP_PORT
    ) -> "UsbServer":
        """Offer boards to USB/IP clients here for `with`. See `AsyncReservation.serve_usb`."""
        return UsbServer(self._client, self._reservation.serve_usb(boards, port=port))

    def console(self, board: str | None = None, *, timeout: float = READY_TIMEOUT) -> "Console":
        """Open a board's console for `with`. See `AsyncReservation.console`."""
        return Console(self._client, self._reservation.console(board, timeout=timeout))

    def flash(
        self,
        uf2: Source,
        boards: Sequence[str] | None = None,
        *,
        timeout: float = FLASH_TIMEOUT,
    ) -> None:
        """Write firmware of your own to boards. See `AsyncReservation.flash`."""
        self._client._call(self._reservation.flash(uf2, boards, timeout=timeout))

    def reset(self, boards: Sequence[str] | None = None, *, timeout: float = READY_TIMEOUT) -> None:
        """Start boards anew in what they do. See `AsyncReservation.reset`."""
        self._client._call(self._reservation.reset(boards, timeout=timeout))

    def extend(self, duration: float = DEFAULT_DURATION) -> None:
        """Let the lease end `duration` seconds from now."""
        self._client._call(self._reservation.extend(duration))

    def change(
        self,
        behaviour: str,
        *,
        boards: Sequence[str] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Let boards do something else, and wait for them. See `AsyncReservation.change`."""
        self._client._call(self._reservation.change(behaviour, boards=boards, arguments=arguments))

    def release(self, boards: Sequence[str] | None = None) -> None:
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
