"""The console of a board: lines from its firmware, bytes to it."""

import asyncio
import errno
import fcntl
import os
import struct
import termios
import tty
from types import TracebackType
from typing import Self

from icefarm_agent.board import BoardError

_SERIAL_STRUCT = struct.Struct("iiIiiiiiHcciHHPHIL")
_CLOSING_WAIT = 12
"""The index of its field."""
_CLOSING_WAIT_NONE = 65535


async def open_streams(fd: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams on a character device; both own a descriptor, and `fd` is one of the two."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(os.dup(fd), "wb", buffering=0),
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def open_console(path: str) -> int:
    """A descriptor of a tty, raw, that neither reads nor writes nor closes for long.

    Raises:
        BoardError: it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise BoardError(f"cannot open its console {path}: {error.strerror}") from error
    try:
        # Else the tty would echo what the board prints, and change bytes of a bitstream. What
        # the board has said already, perhaps once only, is kept.
        tty.setraw(fd, termios.TCSANOW)
        _close_at_once(fd)
    except (OSError, termios.error) as error:
        os.close(fd)
        raise BoardError(f"cannot use its console {path}: {error}") from error
    return fd


def _close_at_once(fd: int) -> None:
    """Let a close not wait for a board that does not read what it was sent, which takes 30 s.

    `closing_wait` in the kernel's struct serial_struct (include/uapi/linux/serial.h).
    """
    settings = bytearray(_SERIAL_STRUCT.size)
    try:
        fcntl.ioctl(fd, termios.TIOCGSERIAL, settings)
        fields = list(_SERIAL_STRUCT.unpack(settings))
        fields[_CLOSING_WAIT] = _CLOSING_WAIT_NONE
        fcntl.ioctl(fd, termios.TIOCSSERIAL, _SERIAL_STRUCT.pack(*fields))
    except OSError as error:
        # A pseudo-terminal has no such thing, and does not wait.
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise


class Console:
    """Open as long as the `async with` block; `path` is a tty."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await open_streams(open_console(self._path))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not waiting for what is unsent: the board may never read it.
        self._writer.transport.abort()
        reading = self._reader._transport  # type: ignore[attr-defined]
        if reading is not None:
            reading.close()

    async def line(self, timeout: float) -> str:
        """The next line, without its end.

        Raises:
            BoardError: none came within `timeout` seconds, or the board went away.
        """
        try:
            async with asyncio.timeout(timeout):
                line = await self._reader.readline()
        except TimeoutError:
            raise BoardError(f"the board said nothing for {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise BoardError(f"its console broke: {error}") from error
        if not line.endswith(b"\n"):
            raise BoardError("its console was closed")
        return line.decode("utf-8", "replace").strip()

    async def wait_for(self, beginning: str, timeout: float) -> str:
        """The next line that begins so; those before it are passed over.

        Raises:
            BoardError: it did not come within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    line = await self.line(timeout)
                    if line.startswith(beginning):
                        return line
        except TimeoutError:
            raise BoardError(f"the board did not say {beginning!r} in {timeout:g} s") from None

    async def write(self, data: bytes, timeout: float) -> None:
        """Send bytes and return when the kernel has taken nearly all of them.

        Raises:
            BoardError: the board did not read them within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise BoardError(f"the board did not read what it was sent in {timeout:g} s") from None
        except OSError as error:
            raise BoardError(f"its console broke: {error}") from error
