"""Where a console's bytes go on this machine: a terminal, a pipe, or a pseudo-terminal."""

import asyncio
import os
import select
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from icefarm.cli.held import say
from icefarm.errors import InvalidRequestError, NotSupportedError

_MOST = 4096
_ESCAPE = b"\x1d"
"""Ctrl-], as telnet has it."""
_LOOK = 0.1
_LONGEST = 1.0


class _Input:
    """Standard input, whatever it is: read by a thread, for a file cannot be waited for.

    What is not taken holds back who writes it.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] | None = None

    async def read(self) -> bytes:
        if self._queue is None:
            self._queue = asyncio.Queue(1)
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._feed, args=(loop, self._queue), daemon=True).start()
        return await self._queue.get()

    @staticmethod
    def _feed(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[bytes]") -> None:
        data = b"-"
        while data:
            data = os.read(sys.stdin.fileno(), _MOST)
            putting = queue.put(data)
            try:
                asyncio.run_coroutine_threadsafe(putting, loop).result()
            except (RuntimeError, CancelledError):
                putting.close()
                return  # The command has ended.


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class Pipe:
    """Standard input and output as they are."""

    def __init__(self) -> None:
        self._input = _Input()

    async def read(self) -> bytes:
        """What came on standard input; empty at its end."""
        return await self._input.read()

    async def show(self, data: bytes) -> None:
        """Write it, without holding up the connection when nobody reads."""
        await asyncio.to_thread(_print, data)

    def connect(self) -> None:
        """Nothing is to be done."""

    def disconnect(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be done."""


class Terminal(Pipe):
    """A terminal whose keys all go to the board, but for Ctrl-]."""

    def __init__(self) -> None:
        super().__init__()
        self._before: list[Any] | None = None
        self._is_over = False

    def connect(self) -> None:
        """Let the terminal pass on keys as they are typed, and not show them: the board does."""
        if self._before is None:
            say("Connected; Ctrl-] ends it.")
            import termios  # There is none on Windows, whose consoles are used line by line.
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            mode = termios.tcgetattr(sys.stdin)
            # Ctrl-C and the like go to the board too; carriage returns are not translated.
            mode[0] &= ~(termios.ICRNL | termios.IXON)
            mode[3] &= ~(termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)

    async def read(self) -> bytes:
        """What was typed; empty after Ctrl-]."""
        if self._is_over:
            return b""
        typed, escape, _ = (await self._input.read()).partition(_ESCAPE)
        self._is_over = bool(escape)
        return typed

    def close(self) -> None:
        """The terminal is as it was before."""
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
            self._before = None


class Pty:
    """A pseudo-terminal, as which other programs can open the board under one path.

    When the board is lost, who has it open is hung up on, as when a USB cable is pulled; the path
    leads to a new one when the board is back.
    """

    def __init__(self, link: Path) -> None:
        self._link = link
        self._master = -1
        if link.is_symlink() and not os.readlink(link).startswith("/dev/"):
            raise InvalidRequestError(f"{link} is a link to something else; name another path")
        if link.exists() and not link.is_symlink():
            raise InvalidRequestError(f"{link} exists already; name a path for a new link")

    def connect(self) -> None:
        """Make one, and let the path lead to it."""
        try:
            import tty
        except ImportError as error:
            raise NotSupportedError("this system has no pseudo-terminals") from error
        self._master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        new = self._link.with_name(f".{self._link.name}.{os.getpid()}")
        new.symlink_to(os.ttyname(slave))
        new.replace(self._link)
        os.close(slave)
        print(f"{self._link} -> {os.readlink(self._link)}", flush=True)

    def disconnect(self) -> None:
        """Hang up on who has it open."""
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
            self._master = -1

    def close(self) -> None:
        """Remove the path."""
        self._link.unlink(missing_ok=True)

    async def read(self) -> bytes:
        """What a program wrote to it."""
        while True:
            try:
                return os.read(self._master, _MOST)
            except BlockingIOError:
                await self._until_readable()
            except OSError:
                # No program has it open, or there is none now.
                await asyncio.sleep(_LOOK)

    async def show(self, data: bytes) -> None:
        """Pass it on to the program that has it open; where there is none, it is not kept."""
        while data and self._is_open():
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(_LOOK)

    def _is_open(self) -> bool:
        if self._master < 0:
            return False
        poll = select.poll()
        poll.register(self._master, 0)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    async def _until_readable(self) -> None:
        loop, master = asyncio.get_running_loop(), self._master
        ready = asyncio.Event()
        loop.add_reader(master, ready.set)
        try:
            async with asyncio.timeout(_LONGEST):
                await ready.wait()
        except TimeoutError:
            return  # It may have been closed meanwhile, which wakes nobody.
        finally:
            # If not, it is gone, and its number may be another's.
            if self._master == master:
                loop.remove_reader(master)
