"""A USB/IP server on 127.0.0.1, from which any USB/IP client imports boards of a reservation.

For machines without vhci-hcd, or without root. A client asks for one thing on each connection: the
list of devices, or one of them, and then the connection carries that device's bytes.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from icefarm.attaching import usb_of
from icefarm.boards import BoardName
from icefarm.errors import FarmError, InvalidRequestError, StreamLostError, TimedOutError
from icefarm.holding import Holding
from icefarm.streaming import BoardStream
from icefarm.usb.protocol import (
    BUSID_BYTES,
    HEADER,
    REQUEST_IMPORT,
    REQUEST_LIST,
    VERSION,
    Offered,
    Status,
    pack_import,
    pack_list,
    pack_refusal,
    parse_busid,
)
from icefarm_schemas import StreamOpened

USBIP_PORT = 3240
"""That IANA has assigned to USB/IP."""

_ADDRESS = "127.0.0.1"
_ASKING = 10.0
"""Seconds that a client may take to say what it wants."""
_DESCRIBING = 60.0
"""Seconds in which a board's description must have come."""
_CLOSING = 2.0
_MOST_CLIENTS = 64

log = logging.getLogger(__name__)


class _MalformedError(Exception):
    """A client does not speak USB/IP, or another version of it."""


class _Glance:
    """An end that only wants to know what there is, and closes at once."""

    def __init__(self) -> None:
        inner, self._outer = socket.socketpair()
        self._descriptor = inner.detach()
        self.opened: StreamOpened | None = None

    @property
    def descriptor(self) -> int:
        return self._descriptor

    async def plug_in(self, opened: StreamOpened) -> None:
        usb_of(opened)
        self.opened = opened
        self._outer.close()

    def unplug(self) -> None:
        self._outer.close()


class _Import:
    """An end that is the connection of a client which asked for a board."""

    def __init__(self, connection: socket.socket, offered: "_Board") -> None:
        self._offered = offered
        self.is_answered = False
        # A second descriptor: the stream's is closed with the stream.
        self._connection = connection
        self._descriptor = os.dup(connection.fileno())

    @property
    def descriptor(self) -> int:
        return self._descriptor

    async def plug_in(self, opened: StreamOpened) -> None:
        offered = self._offered.offer(opened)
        self.is_answered = True
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._connection, pack_import(offered))

    def unplug(self) -> None:
        if self.is_answered:
            # Both descriptors are of one connection, whose client is to hear of the end at once.
            try:
                self._connection.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("the client has closed before: %s", error)


@dataclass
class _Board:
    """A board that is offered."""

    stream: BoardStream
    agent: str
    busid: str
    offered: Offered | None = None
    is_imported: bool = False

    def offer(self, opened: StreamOpened) -> Offered:
        """Its description as it is now: the device may have another address than before."""
        path = f"/icefarm/{self.agent}/{self.stream.board}"
        self.offered = Offered(path, self.busid, usb_of(opened))
        return self.offered


class AsyncUsbServer:
    """Boards that USB/IP clients of this machine can import while `async with` lasts.

    Raises (when it is entered):
        InvalidRequestError: the port is taken.
        NotSupportedError: a board's behaviour is not `usbip`.
        BoardLostError, ReservationEndedError: a board is in the reservation no more.
        TimedOutError: a board could not be asked what it is.
    """

    def __init__(
        self,
        holding: Holding,
        boards: Sequence[BoardName] | None,
        port: int,
    ) -> None:
        self._session = holding.session
        every = [name for _, name in holding.boards()]
        names: Sequence[BoardName] = every if boards is None else boards
        self._boards: dict[str, _Board] = {}
        for number, name in enumerate(names, 1):
            stream, busid = BoardStream(holding, name), f"1-{number}"
            self._boards[busid] = _Board(stream, stream.key[0], busid)
        self._holding = holding
        self._port = port
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._port

    @property
    def busids(self) -> dict[str, str]:
        """What clients call each board, by the board's name."""
        return {board.stream.board: busid for busid, board in self._boards.items()}

    @property
    def imported(self) -> tuple[str, ...]:
        """The boards that clients have now."""
        return tuple(b.stream.board for b in self._boards.values() if b.is_imported)

    async def changed(self) -> None:
        """Return when a board was imported or lost, or perhaps without a reason.

        Raises:
            ReservationEndedError: nothing is offered any more.
        """
        await self._session.while_listening(self._session.view.changed())
        self._holding.check()

    async def __aenter__(self) -> Self:
        # Before boards are asked, so that who has the wrong port need not wait for them.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._bind(listening)
            for board in self._boards.values():
                await self._describe(board)
            listening.listen()
        except BaseException:
            listening.close()
            raise
        self._listening = listening
        self._accepting = asyncio.create_task(self._accept(), name="USB/IP server")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = [self._accepting, *self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()

    def _bind(self, listening: socket.socket) -> None:
        try:
            listening.bind((_ADDRESS, self._port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise InvalidRequestError(
                    f"port {self._port} of this machine cannot be used ({error.strerror}), perhaps "
                    "because a usbipd runs here; choose another port, and name it to the client"
                ) from error
            raise
        self._port = listening.getsockname()[1]

    async def _describe(self, board: _Board) -> None:
        """Learn what a board is, from a stream that is opened for that alone."""
        glance: _Glance | None = None

        def look() -> _Glance:
            nonlocal glance
            glance = _Glance()
            return glance

        board.stream.start(look)
        try:
            async with asyncio.timeout(_DESCRIBING):
                while glance is None or glance.opened is None:
                    await board.stream.changed()
        except TimeoutError:
            why = board.stream.why or "it is not ready"
            raise TimedOutError(
                f"the board {board.stream.board!r} did not say what it is within "
                f"{_DESCRIBING:g} s: {why}"
            ) from None
        finally:
            # Time to close what was opened.
            await board.stream.stop(_CLOSING)
        board.offer(glance.opened)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listening)
            if len(self._clients) >= _MOST_CLIENTS:
                log.warning("refused a USB/IP client: %d are connected", _MOST_CLIENTS)
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                async with asyncio.timeout(_ASKING):
                    busid = await self._hear(connection)
                if busid is not None:
                    await self._import(connection, busid)
            except TimeoutError:
                log.warning("a USB/IP client said nothing within %g s", _ASKING)
            except (_MalformedError, OSError) as error:
                log.warning("a USB/IP client was cut off: %s", error)

    async def _hear(self, connection: socket.socket) -> str | None:
        """Answer a request for the list, or return the bus id that is to be imported."""
        version, code, _ = HEADER.unpack(await _receive(connection, HEADER.size))
        if version != VERSION:
            raise _MalformedError(f"it speaks version {version:#06x}, not {VERSION:#06x}")
        if code == REQUEST_LIST:
            devices = [board.offered for board in self._boards.values() if board.offered]
            await asyncio.get_running_loop().sock_sendall(connection, pack_list(devices))
            return None
        if code != REQUEST_IMPORT:
            raise _MalformedError(f"it asks for {code:#06x}, which is not known")
        return parse_busid(await _receive(connection, BUSID_BYTES))

    async def _import(self, connection: socket.socket, busid: str) -> None:
        board = self._boards.get(busid)
        if board is None:
            log.warning("a USB/IP client asked for %r, which is not offered", busid)
            await self._refuse(connection, Status.NO_DEVICE)
        elif board.is_imported:
            await self._refuse(connection, Status.BUSY)
        else:
            board.is_imported = True
            try:
                await self._carry(connection, board)
            finally:
                board.is_imported = False
                self._session.view.tell()

    async def _carry(self, connection: socket.socket, board: _Board) -> None:
        name, end = board.stream.board, None
        try:
            if not board.stream.is_ready():
                raise StreamLostError(f"the board {name!r} is not ready")
            end = _Import(connection, board)
            await board.stream.carry(end)
            log.info("the client that had %s has closed", name)
        except FarmError as error:
            log.warning("the stream of %s is over: %s", name, error)
            if end is None or not end.is_answered:
                await self._refuse(connection, Status.ERROR)

    @staticmethod
    async def _refuse(connection: socket.socket, status: Status) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, pack_refusal(status))


async def _receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes and no more: what follows is not ours to read."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            raise _MalformedError(f"it closed after {len(data)} of {size} bytes")
        data += more
    return data
