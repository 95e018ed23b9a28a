"""`serial`: the board's console, byte by byte, for its holder."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from icefarm_agent.behaviours import ArgumentsError, Endpoint
from icefarm_agent.board import DEFAULT_FIRMWARE, Board
from icefarm_agent.console import open_console

_APPEAR = 10.0
"""Seconds for a board that is being restarted to show its console."""
_DRAINING, _PAUSE = 2.0, 0.02


class Serial:
    """Whatever firmware runs, its console is the holder's. Takes no arguments."""

    firmware: ClassVar[str | None] = None

    @classmethod
    def suits(cls, board: Board) -> bool:
        """Each board has a console."""
        return True

    def __init__(self, board: Board, arguments: dict[str, Any]) -> None:
        if arguments:
            raise ArgumentsError(f"serial takes no arguments; it was given {', '.join(arguments)}")
        self._board = board

    async def start(self) -> None:
        """See that there is a console; a board that is in its bootloader gets its firmware again.

        So is one whose holder rebooted it while it was exported.
        """
        port = self._board.port
        if port is not None:
            device = await port.until(
                lambda device: device if device and (device.console or device.disks) else None,
                _APPEAR,
                "its firmware shows no serial port, so there is no console; flash another one",
            )
            if device.console is None:
                await self._board.install(DEFAULT_FIRMWARE)

    async def watch(self) -> str:
        """Wait until the board is not on its own console any more."""
        return await self._board.watch()

    async def stop(self) -> None:
        """There is nothing to let go of between streams."""
        return

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        """Open the console, raw; at the end, the board is given the time to take what was sent."""
        fd = open_console(self._board.console)
        drain = os.dup(fd)
        try:
            yield Endpoint(fd)
        finally:
            await _drained(drain)
            os.close(drain)


async def _drained(fd: int) -> None:
    """Return when a tty has sent all, or after a while: a board need not read."""
    for _ in range(round(_DRAINING / _PAUSE)):
        try:
            [unsent] = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
        except OSError:
            return  # The tty is gone, and what was to be sent with it.
        if not unsent:
            return
        await asyncio.sleep(_PAUSE)
