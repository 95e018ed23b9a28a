"""One side of a stream: bytes between a file descriptor here and another one far away.

Everything is done in callbacks of the event loop, without a task or a queue between the descriptor
and the connection, since each hand-over costs an echo some tenths of a millisecond on a small
machine.
"""

import asyncio
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from functools import partial

from icefarm_broker.connection import Connection
from icefarm_broker.errors import BrokerError, StreamLostError
from icefarm_schemas.streams import MAX_DATA, WINDOW, Frame, FrameError, stream_tag
from icefarm_schemas.topic import Topic

_LOOK = 0.02
_HOLD = 0.001
_CREDIT_AFTER = WINDOW // 4
"""Bytes after whose consumption the other side is told so, if no data tells it on the way."""

log = logging.getLogger(__name__)


class Stream:
    """Carries bytes while it `run`s.

    Args:
        stream: its id, eight hexadecimal digits.
        sends, receives: the topics of the two directions. The caller has subscribed to `receives`
            before the other side may send.
        fd: a socket, a tty, or a pseudo-terminal's master; it is the stream's from now on, and
            closed with it.
        may_wait: whether what was read is nothing that anybody hurries for. It then waits for up
            to a millisecond, to go with what comes next in one frame.
        speaks_first: the side that opens a stream does, with an empty frame, when it is ready to
            receive; the other one sends nothing before.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        sends: Topic,
        receives: Topic,
        fd: int,
        *,
        speaks_first: bool = True,
        may_wait: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._connection = connection
        self._tag = stream_tag(stream)
        self._sends = sends.build(connection.root)
        self._receives = receives.build(connection.root)
        self._fd = fd
        self._read, self._write, self._close = _ways_of(fd)
        self._speaks_first = speaks_first
        self._may_wait = may_wait
        self._held = b""
        self._holding: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._frames_sent = self._frames_received = 0
        # Bytes: sent from here, and of these consumed there; come here, consumed, and told so.
        self._sent = self._credited = 0
        self._received = self._consumed = self._told = 0
        self._reading = self._writing = False
        self._unwritten: deque[bytes] = deque()
        connection.take_bytes(self._receives, self._take, self._lose)

    async def run(self) -> None:
        """Carry bytes both ways until the descriptor's other end is closed.

        Raises:
            StreamLostError: frames are missing, or the connection was lost.
        """
        try:
            if self._speaks_first:
                self._send(b"")
                self._read_while_there_is_credit()
            await self._over
        finally:
            self.close()

    @property
    def sent(self) -> int:
        """Bytes that have gone from here."""
        return self._sent

    @property
    def received(self) -> int:
        """Bytes that have come here."""
        return self._received

    async def flush(self, timeout: float) -> None:
        """Return when all that has come is passed on, or after `timeout` seconds."""
        deadline = self._loop.time() + timeout
        while self._fd >= 0 and self._unwritten:
            if self._loop.time() > deadline:
                log.info("what has come on %s is not taken, and dropped", self._receives)
                return
            await asyncio.sleep(_LOOK)

    def close(self) -> None:
        """Stop, and close the descriptor; what has been read from it has been sent."""
        if self._fd < 0:
            return
        self._connection.take_no_more(self._receives)
        self._send_held()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._close()
        self._fd = -1
        if not self._over.done():
            self._over.set_result(None)
        elif not self._over.cancelled():
            # Of a stream that was lost before it ran, nobody asks why.
            self._over.exception()

    def _end(self, error: Exception | None) -> None:
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)

    def _lose(self, why: Exception) -> None:
        self._end(StreamLostError(f"the connection to the broker was lost: {why}"))

    def _read_while_there_is_credit(self) -> None:
        has_credit = self._sent - self._credited < WINDOW
        if has_credit == self._reading or self._over.done():
            return
        self._reading = has_credit
        if has_credit:
            self._loop.add_reader(self._fd, self._readable)
        else:
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = self._read(min(MAX_DATA, WINDOW - (self._sent - self._credited)))
        except BlockingIOError:
            return
        except OSError:
            # EIO of a pseudo-terminal, ECONNRESET of a socket: nobody is at the other end.
            data = b""
        if not data:
            self._end(None)
            return
        self._sent += len(data)
        if len(self._held) + len(data) > MAX_DATA:
            self._send_held()
        if self._may_wait is not None and self._may_wait(data):
            self._held += data
            if self._holding is None:
                self._holding = self._loop.call_later(_HOLD, self._send_held)
        elif self._held:
            self._held += data
            self._send_held()
        else:
            self._send(data)
        self._read_while_there_is_credit()

    def _send_held(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        data, self._held = self._held, b""
        if data and not self._over.done():
            self._send(data)

    def _send(self, data: bytes) -> None:
        self._told = self._consumed
        frame = Frame(self._tag, self._frames_sent, self._consumed, data)
        self._frames_sent += 1
        try:
            self._connection.send(self._sends, frame.pack())
        except BrokerError as error:
            self._lose(error)

    def _take(self, payload: bytes) -> None:
        """A frame has come."""
        if self._over.done():
            return
        try:
            frame = Frame.unpack(payload)
        except FrameError as error:
            self._end(StreamLostError(str(error)))
            return
        if frame.stream != self._tag:
            return  # A late one, of a stream that was on the same topic before.
        if not frame.follows(self._frames_received):
            self._end(
                StreamLostError(
                    f"frame {frame.number} came instead of {self._frames_received}: "
                    f"bytes were lost on the way"
                )
            )
            return
        self._frames_received += 1
        self._received += len(frame.data)
        if (
            self._received - self._consumed > WINDOW
            or not self._credited <= frame.consumed <= self._sent
        ):
            self._end(StreamLostError("the other side does not keep to the credit it was given"))
            return
        self._credited = frame.consumed
        self._read_while_there_is_credit()
        if frame.data:
            self._pass_on(frame.data)

    def _pass_on(self, data: bytes) -> None:
        self._unwritten.append(data)
        if not self._writing:
            self._writable()

    def _writable(self) -> None:
        while self._unwritten:
            data = self._unwritten.popleft()
            try:
                written = self._write(data)
            except BlockingIOError:
                written = 0
            except OSError:
                self._end(None)
                return
            self._consumed += written
            if written < len(data):
                self._unwritten.appendleft(data[written:])
                break
        self._wait_until_writable(bool(self._unwritten))
        if self._consumed - self._told >= _CREDIT_AFTER:
            self._send(b"")

    def _wait_until_writable(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)


def _ways_of(
    fd: int,
) -> tuple[Callable[[int], bytes], Callable[[bytes], int], Callable[[], None]]:
    """How to read, write and close without waiting; on Windows, sockets are no files."""
    if os.name == "nt" or stat.S_ISSOCK(os.fstat(fd).st_mode):
        end = socket.socket(fileno=fd)
        end.setblocking(False)
        return end.recv, end.send, end.close
    os.set_blocking(fd, False)
    return partial(os.read, fd), partial(os.write, fd), partial(os.close, fd)
