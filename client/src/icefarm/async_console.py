"""The console of a board: its bytes and lines, through losses that are told."""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from icefarm.boards import BoardName
from icefarm.errors import FarmError, NotSupportedError, StreamLostError, TimedOutError
from icefarm.holding import Holding
from icefarm.streaming import BoardStream, StreamState
from icefarm_schemas import StreamOpened

_LONGEST_LINE = 1 << 20
"""Bytes; a longer line is read in pieces, and what is not read holds back the board."""
_MOST = 1 << 16
_LEAVING = 2.0
"""Seconds for what was written last to go out."""


@dataclass
class _Line:
    """One connection with the board, from its opening until its loss has been told."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_lost: bool = False


class _Reader(asyncio.StreamReader):
    """Gives all that has come, however the connection ended."""

    def set_exception(self, exc: Exception) -> None:
        self.feed_eof()


class _ConsoleEnd:
    """A socket, of which the console has the other side."""

    def __init__(self, lines: deque[_Line]) -> None:
        inner, self._outer = socket.socketpair()
        self._descriptor = inner.detach()
        self._lines = lines
        self._line: _Line | None = None

    @property
    def descriptor(self) -> int:
        """The stream's side."""
        return self._descriptor

    async def plug_in(self, opened: StreamOpened) -> None:
        """Offer it to the console."""
        if opened.usb is not None:
            raise NotSupportedError(
                f"the board {opened.device!r} offers its USB port now, not its console; "
                "change its behaviour to 'serial'"
            )
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=_LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(lambda: protocol, sock=self._outer)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._line = _Line(reader, writer)
        self._lines.append(self._line)

    def unplug(self) -> None:
        """What has come can still be read; nothing can be written."""
        if self._line is None:
            self._outer.close()
        else:
            self._line.is_lost = True


class AsyncConsole:
    """A board's console while `async with` lasts.

    When the connection to the board is lost, or the board starts again, one call raises
    StreamLostError, after all that had come before. The console connects again by itself, and the
    next call waits for that; what the board said meanwhile is gone. Iterate over it for lines.

    Raises (when it is entered): as `AsyncAttachment` does.
    """

    def __init__(
        self,
        holding: Holding,
        board: BoardName | None,
        timeout: float,
    ) -> None:
        self._stream = BoardStream(holding, board)
        self._timeout = timeout
        self._lines: deque[_Line] = deque()

    @property
    def board(self) -> str:
        """The board's name."""
        return self._stream.board

    async def wait(self, timeout: float | None = None) -> None:
        """Return when it is connected: at once, or when it is again after a loss.

        Raises:
            BoardLostError, ReservationEndedError, StreamLostError: it will not be.
            TimedOutError: it is not within `timeout` seconds.
        """
        await self._stream.until_open(timeout)

    async def read(self, timeout: float | None = None) -> bytes:
        """What has come, at least a byte, and at most 64 KiB.

        Raises:
            TimedOutError: nothing came within `timeout` seconds.
            StreamLostError: something may be missing from here on; read again to go on.
            BoardLostError, ReservationEndedError: there is nothing more to come.
        """
        return await self._read(lambda reader: reader.read(_MOST), timeout)

    async def readline(self, timeout: float | None = None) -> bytes:
        """A line with its newline, which only a line that was cut off lacks. Raises as `read`."""
        return await self._read(_read_line, timeout)

    async def write(self, data: bytes) -> None:
        """Send bytes to the board; what was not read before a loss is given up.

        Raises:
            StreamLostError: the connection was lost meanwhile; write again to go on.
            BoardLostError, ReservationEndedError: the board is not yours any more.
        """
        line = await self._line()
        if not line.is_lost:
            line.writer.write(data)
            try:
                return await line.writer.drain()
            except OSError:
                line.is_lost = True
        raise self._give_up(line)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await self.readline()

    async def _read(
        self, read: Callable[[asyncio.StreamReader], Awaitable[bytes]], timeout: float | None
    ) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                line = await self._line()
                if data := await read(line.reader):
                    return data
        except TimeoutError:
            raise TimedOutError(
                f"the board {self.board!r} said nothing within {timeout:g} s"
            ) from None
        raise self._give_up(line)

    async def _line(self) -> _Line:
        """The oldest connection whose end has not been told; wait for one if there is none."""
        while not self._lines:
            await self._stream.changed()
        return self._lines[0]

    def _give_up(self, line: _Line) -> FarmError:
        line.writer.close()
        if self._lines and self._lines[0] is line:
            self._lines.popleft()
        return StreamLostError(str(self._stream.why or f"the console of {self.board!r} was closed"))

    async def __aenter__(self) -> Self:
        await self._stream.open(lambda: _ConsoleEnd(self._lines), self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The stream ends when it has read, and sent, all that was written.
        for line in self._lines:
            line.writer.close()
        await self._stream.stop(_LEAVING if self._stream.state is StreamState.OPEN else 0)
        for line in self._lines:
            line.writer.close()


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.read(error.consumed)
