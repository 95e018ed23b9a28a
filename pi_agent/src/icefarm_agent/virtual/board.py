"""A virtual board: a pseudo-terminal that speaks the firmware's protocol and means what it says.

It is driven by the same code as a real board, takes as long as one, and computes what it answers
from the bitstream that it was sent.
"""

import asyncio
import os
import time
import tty
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from icefarm_agent.behaviours.measuring import (
    BITSTREAM_BYTES,
    FAILED,
    FLASHING,
    PROMPT,
    RECEIVED,
    WATCHDOG,
)
from icefarm_agent.behaviours.pulsecount import PulseCount
from icefarm_agent.behaviours.variance import READINGS, Variance
from icefarm_agent.board import (
    DEFAULT_FIRMWARE,
    DEFAULT_FIRMWARE_GREETING,
    BoardError,
    BoardWithoutUsb,
)
from icefarm_agent.console import open_streams
from icefarm_agent.metrics import counted_flash
from icefarm_agent.virtual import icestorm
from icefarm_agent.virtual.fpga import BitstreamError, Simulator, Waveform

_WATCHDOG_SECONDS = 2.0
_READING_INTERVAL = 2e-6
"""Seconds between readings: an RP2040's ADC takes 96 cycles of 48 MHz (datasheet, 4.9)."""


@dataclass(frozen=True)
class Timing:
    """How long a board takes, in seconds; real unless divided."""

    flash: float = 1.5
    transfer: float = 0.1
    """Of a bitstream over full-speed USB, about 1 MB/s."""
    configuration: float = 0.05
    counting: float = 1.0
    reading: float = READINGS * _READING_INTERVAL

    def faster(self, factor: float) -> "Timing":
        """All of it, `factor` times faster."""
        return Timing(
            *(
                seconds / factor
                for seconds in (
                    self.flash,
                    self.transfer,
                    self.configuration,
                    self.counting,
                    self.reading,
                )
            )
        )


class VirtualBoard(BoardWithoutUsb):
    """A board whose FPGA is simulated. Each start of a firmware gives it a new tty, as USB does."""

    product = "virtual pico-ice"
    patience = 60.0

    def __init__(self, name: str, simulator: Simulator, timing: Timing) -> None:
        self.name = name
        self._simulator = simulator
        self._timing = timing
        self._console: str | None = None
        self._firmware: asyncio.Task[None] | None = None
        self._firmwares: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            DEFAULT_FIRMWARE: self._greet,
            PulseCount.firmware: self._count_pulses,
            Variance.firmware: self._read_samples,
        }

    @property
    def console(self) -> str:
        """The slave side of the pseudo-terminal."""
        if self._console is None:
            raise BoardError("it has no firmware yet, and so no console")
        return self._console

    async def install(self, firmware: str) -> None:
        """Stop what runs, take the time of flashing, and start the firmware on a new tty."""
        await self.close()
        if firmware not in self._firmwares:
            raise BoardError(f"there is no firmware {firmware!r} for virtual boards")
        with counted_flash():
            await asyncio.sleep(self._timing.flash)
        master, slave = os.openpty()
        tty.setraw(slave)
        self._console = os.ttyname(slave)
        reader, writer = await open_streams(master)
        self._firmware = asyncio.create_task(
            self._run(firmware, reader, writer, slave), name=f"firmware of {self.name}"
        )

    def has_firmware(self, firmware: str) -> bool:
        """Whether it is one of those that are written here."""
        return firmware in self._firmwares

    async def close(self) -> None:
        """Stop the firmware; its tty disappears."""
        self._console = None
        if self._firmware is not None:
            firmware, self._firmware = self._firmware, None
            firmware.cancel()
            await asyncio.wait([firmware])

    async def _run(
        self,
        firmware: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        slave: int,
    ) -> None:
        self._reader, self._writer = reader, writer
        try:
            await self._firmwares[firmware]()
        finally:
            writer.transport.abort()
            reader._transport.close()  # type: ignore[attr-defined]
            # Kept open until now, so that the tty survives while nobody has its console open.
            os.close(slave)

    async def _say(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")
        await self._writer.drain()

    async def _greet(self) -> None:
        while True:
            await self._say(DEFAULT_FIRMWARE_GREETING)
            await asyncio.sleep(0.1)

    async def _count_pulses(self) -> None:
        while True:
            waveform = await self._next_waveform(self._timing.counting)
            if waveform is not None:
                await self._say(f"{PulseCount.result} {waveform.pulses(1.0)}")

    async def _read_samples(self) -> None:
        while True:
            waveform = await self._next_waveform(self._timing.reading)
            if waveform is not None:
                samples = waveform.samples(READINGS, _READING_INTERVAL)
                await self._say(f"{Variance.result} {','.join(map(str, samples))}")

    async def _next_waveform(self, measuring: float) -> Waveform | None:
        """Take one bitstream through the protocol; None when it came to nothing."""
        await self._say(PROMPT)
        bitstream = await self._reader.read(BITSTREAM_BYTES)
        started = time.monotonic()
        while len(bitstream) < BITSTREAM_BYTES:
            try:
                async with asyncio.timeout(_WATCHDOG_SECONDS):
                    bitstream += await self._reader.read(BITSTREAM_BYTES - len(bitstream))
            except TimeoutError:
                await self._say(f"{WATCHDOG}, {len(bitstream)} bytes received of {BITSTREAM_BYTES}")
                return None
        await asyncio.sleep(self._timing.transfer - (time.monotonic() - started))
        await self._say(f"{RECEIVED} {(time.monotonic() - started) * 1e6:.0f} us")
        await self._say(FLASHING)
        await asyncio.sleep(self._timing.configuration)
        # Computed while a real board would be counting, so that it costs no time of its own.
        counting = asyncio.create_task(asyncio.sleep(measuring))
        try:
            waveform = await self._simulator.waveform(bitstream)
            await counting
        except BitstreamError as error:
            await self._say(f"{FAILED}{' '.join(str(error).split())}")
            return None
        finally:
            counting.cancel()
        return waveform


@asynccontextmanager
async def virtual_boards(agent: str, count: int, speed: float) -> AsyncIterator[list[VirtualBoard]]:
    """Boards named after their agent, sharing one simulator.

    Raises:
        ToolsMissing: there are to be boards, but what simulates them is not installed.
    """
    if count:
        icestorm.locate()
    simulator = Simulator(workers=os.cpu_count() or 1)
    timing = Timing().faster(speed)
    try:
        yield [
            VirtualBoard(f"{agent}-{number}", simulator, timing) for number in range(1, count + 1)
        ]
    finally:
        await simulator.close()
