"""The dialogue with a measuring firmware: a bitstream in, one line of result out.

The board says "Waiting for bitstream transfer" and takes exactly 104,090 bytes. It answers with
"Received bitstream in N us", "Flashing FPGA", its result, and waits again. When a transfer stalls
for 2 s it says "Watchdog timeout, N bytes received of M" (shared by all pico-ice firmwares of this
lab). A virtual board also says "Configuration failed: ..." where an FPGA would stay unconfigured.
"""

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from icefarm_agent.behaviours import ArgumentsError, MeasurementError
from icefarm_agent.board import Board, BoardError
from icefarm_agent.console import Console
from icefarm_schemas import ErrorCode, Measurement

BITSTREAM_BYTES = 104_090
"""An iCE40UP5K's configuration, as icepack writes it."""

PROMPT = "Waiting for bitstream transfer"
RECEIVED = "Received bitstream in"
FLASHING = "Flashing FPGA"
WATCHDOG = "Watchdog timeout"
FAILED = "Configuration failed: "


class Measuring(ABC):
    """A behaviour whose firmware measures what a bitstream does."""

    firmware: ClassVar[str | None]
    result: ClassVar[str]
    """How the line begins that holds the result."""

    @classmethod
    def suits(cls, board: Board) -> bool:
        """Whether there is such a firmware for it."""
        return cls.firmware is not None and board.has_firmware(cls.firmware)

    def __init__(self, board: Board, arguments: dict[str, Any]) -> None:
        self._board = board
        self._open = AsyncExitStack()
        self._take_arguments(dict(arguments))

    def _take_arguments(self, arguments: dict[str, Any]) -> None:
        if arguments:
            raise ArgumentsError(
                f"{self.firmware} takes no arguments; it was given {', '.join(arguments)}"
            )

    @abstractmethod
    def _measurement(self, values: str) -> Measurement:
        """Read the result line's values; raise ValueError when they make no sense."""

    async def start(self) -> None:
        """Wait until the firmware takes bitstreams."""
        self._console = await self._open.enter_async_context(Console(self._board.console))
        await self._console.wait_for(PROMPT, self._board.patience)

    async def watch(self) -> str:
        """Wait until the board is not on its own console any more."""
        return await self._board.watch()

    async def stop(self) -> None:
        """Close the console."""
        await self._open.aclose()

    async def evaluate(self, bitstream: bytes) -> Measurement:
        """Send a bitstream and read what the board measured."""
        if len(bitstream) != BITSTREAM_BYTES:
            # Sent anyway, a short one would cost the watchdog's 2 s, and of a long one the rest
            # would be taken for the beginning of the next.
            raise MeasurementError(
                ErrorCode.INVALID_BITSTREAM,
                "the bitstream is empty"
                if not bitstream
                else f"the bitstream has {len(bitstream):,} bytes; an iCE40UP5K takes exactly "
                f"{BITSTREAM_BYTES:,}"
                + (", so it was cut short" if len(bitstream) < BITSTREAM_BYTES else ""),
            )
        try:
            await self._console.write(bitstream, self._board.patience)
            result = await self._listen()
            await self._console.wait_for(PROMPT, self._board.patience)
        except BoardError as error:
            raise MeasurementError(
                ErrorCode.MEASUREMENT_FAILED, str(error), board_is_well=False
            ) from error
        if isinstance(result, MeasurementError):
            raise result
        return result

    async def _listen(self) -> Measurement | MeasurementError:
        while True:
            line = await self._console.line(self._board.patience)
            if line.startswith(self.result):
                try:
                    return self._measurement(line.removeprefix(self.result))
                except ValueError:
                    raise BoardError(f"the board's result makes no sense: {line[:80]!r}") from None
            if line.startswith(FAILED):
                return MeasurementError(ErrorCode.INVALID_BITSTREAM, line.removeprefix(FAILED))
            if line.startswith(WATCHDOG):
                return MeasurementError(
                    ErrorCode.MEASUREMENT_FAILED, f"the transfer to the board stalled: {line}"
                )
            if not line.startswith((RECEIVED, FLASHING)):
                raise BoardError(f"the board said something unexpected: {line[:80]!r}")
