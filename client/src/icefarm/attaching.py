"""A board that is plugged into this machine over the farm, and stays so through losses."""

import logging
import socket
from types import TracebackType
from typing import Self

from icefarm.boards import BoardName
from icefarm.errors import FarmError, NotSupportedError
from icefarm.holding import Holding
from icefarm.streaming import BoardStream, StreamState
from icefarm.usb import vhci
from icefarm_schemas import StreamOpened, UsbDescription

log = logging.getLogger(__name__)


def usb_of(opened: StreamOpened) -> UsbDescription:
    """What an agent said of the USB device whose stream it opened.

    Raises:
        NotSupportedError: the stream is none of USB/IP.
    """
    if opened.usb is None:
        raise NotSupportedError(
            f"the board {opened.device!r} offers its console now, not its USB port; "
            "change its behaviour to 'usbip'"
        )
    return opened.usb


class VhciEnd:
    """A free USB port of this machine's, by vhci-hcd."""

    def __init__(self) -> None:
        inner, self._outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._descriptor = inner.detach()
        self.port: vhci.Port | None = None
        self.nodes = vhci.Nodes()

    @property
    def descriptor(self) -> int:
        """The stream's side of the socket; the kernel gets the other."""
        return self._descriptor

    async def plug_in(self, opened: StreamOpened) -> None:
        """Attach it, and wait for what it brings."""
        usb = usb_of(opened)
        await vhci.prepare()
        self.port = vhci.attach(self._outer.fileno(), usb)
        self._outer.close()
        self.nodes = await vhci.wait_for_nodes(self.port)

    def unplug(self) -> None:
        """Detach the port at once: until then, programs that close the dead tty hang."""
        self._outer.close()
        if self.port is None:
            return
        try:
            vhci.detach(self.port)
        except (OSError, FarmError) as error:
            # The kernel detaches it too, when the stream closes its end of the socket.
            log.error("the port %d cannot be detached: %s", self.port.number, error)
        self.port, self.nodes = None, vhci.Nodes()


class AsyncAttachment:
    """A board, plugged in while `async with` lasts, and again by itself whenever it was lost.

    Raises (when it is entered):
        NotSupportedError: this machine, or what the board does now, does not allow it; the message
            says what to do.
        LimitExceededError: all USB/IP ports of this machine are in use.
        BoardLostError, ReservationEndedError: the board is in the reservation no more.
        TimedOutError: it was not there within `timeout` seconds.
    """

    def __init__(
        self,
        holding: Holding,
        board: BoardName | None,
        timeout: float,
    ) -> None:
        self._stream = BoardStream(holding, board)
        self._timeout = timeout
        self._end: VhciEnd | None = None

    @property
    def board(self) -> str:
        """The board's name."""
        return self._stream.board

    @property
    def is_attached(self) -> bool:
        """Whether it is plugged in now."""
        return self._stream.state is StreamState.OPEN

    @property
    def lost(self) -> FarmError | None:
        """Why it is not plugged in now."""
        return None if self.is_attached else self._stream.why

    @property
    def port(self) -> vhci.Port | None:
        """The port of this machine that it is plugged into."""
        return self._end.port if self._end is not None else None

    @property
    def ttys(self) -> tuple[str, ...]:
        """Its ttys, such as /dev/ttyACM0; none while it is lost."""
        return self._nodes.ttys

    @property
    def paths(self) -> tuple[str, ...]:
        """All that it brought into /dev: ttys, disks and their partitions."""
        return self._nodes.ttys + self._nodes.disks

    @property
    def _nodes(self) -> vhci.Nodes:
        return self._end.nodes if self._end is not None and self.is_attached else vhci.Nodes()

    async def wait(self, timeout: float | None = None) -> None:
        """Return when it is plugged in: at once, or when it is back after a loss.

        Raises:
            BoardLostError, ReservationEndedError, StreamLostError: it will not come back.
            TimedOutError: it is not there within `timeout` seconds.
        """
        await self._stream.until_open(timeout)

    async def changed(self) -> None:
        """Return when it was plugged in, or lost, or perhaps without a reason.

        Raises:
            BoardLostError, ReservationEndedError, StreamLostError: it will not come back.
        """
        await self._stream.changed()

    async def __aenter__(self) -> Self:
        await vhci.prepare()
        await self._stream.open(self._make_end, self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stream.stop()

    def _make_end(self) -> VhciEnd:
        self._end = VhciEnd()
        return self._end
