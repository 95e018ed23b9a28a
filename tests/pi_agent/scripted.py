"""A board whose firmware is written by the test, on a real pseudo-terminal."""

import asyncio
import os
import tty
from collections.abc import Awaitable, Callable

from icefarm_agent.board import BoardError, BoardWithoutUsb
from icefarm_agent.console import open_streams

Firmware = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedBoard(BoardWithoutUsb):
    """Runs the test's firmwares; `installed` lists what was asked for, in order."""

    product = "scripted"

    def __init__(self, firmwares: dict[str, Firmware], patience: float = 30) -> None:
        self.name = "board"
        self.patience = patience
        self.installed: list[str] = []
        self._firmwares = firmwares
        self._running: asyncio.Task[None] | None = None
        self._console = ""

    @property
    def console(self) -> str:
        return self._console

    def has_firmware(self, firmware: str) -> bool:
        return True

    async def install(self, firmware: str) -> None:
        await self.close()
        self.installed.append(firmware)
        if firmware not in self._firmwares:
            raise BoardError(f"no {firmware}")
        master, slave = os.openpty()
        tty.setraw(slave)
        self._console = os.ttyname(slave)
        self._running = asyncio.create_task(self._run(self._firmwares[firmware], master, slave))

    async def _run(self, firmware: Firmware, master: int, slave: int) -> None:
        reader, writer = await open_streams(master)
        try:
            await firmware(reader, writer)
            await asyncio.Event().wait()
        finally:
            writer.transport.abort()
            reader._transport.close()  # type: ignore[attr-defined]
            os.close(slave)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None


async def default(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As every board greets between two holders."""
    writer.write(b"default firmware 1.0\n")


def answering(*answers: bytes) -> Firmware:
    """A measuring firmware that gives these answers, one for each bitstream."""

    async def firmware(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(b"Waiting for bitstream transfer\n")
            await reader.readexactly(104_090)
            writer.write(b"Received bitstream in 5 us\nFlashing FPGA\n" + answer)
        writer.write(b"Waiting for bitstream transfer\n")

    return firmware
