"""Behaviours: what a reserved board does. Each is a class, found by its entry point's name."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, runtime_checkable

from icefarm_agent.board import Board
from icefarm_schemas import Error, ErrorCode, Measurement, UsbDescription

ENTRY_POINTS = "icefarm.behaviours"
"""The group in which a package of a lab's own names its behaviours."""


class ArgumentsError(ValueError):
    """The arguments of a reservation are not this behaviour's."""


class MeasurementError(Exception):
    """A bitstream that gave no measurement.

    `board_is_well` is False where the board must be restarted before the next one.
    """

    def __init__(self, code: ErrorCode, message: str, *, board_is_well: bool = True) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message)
        self.board_is_well = board_is_well


class Behaviour(Protocol):
    """One board serving one reservation: started, used, stopped.

    What it can be used for is what it has: `evaluate` (`Measures`), `open` (`Streams`), or both.
    """

    firmware: ClassVar[str | None]
    """What the board must run before the start; None for whatever it runs."""

    @classmethod
    def suits(cls, board: Board) -> bool:
        """Whether this board can do it."""

    def __init__(self, board: Board, arguments: dict[str, Any]) -> None:
        """Raise ArgumentsError for arguments that are not its own."""

    async def start(self) -> None:
        """Make the board ready, which runs the firmware; called again after a stop to restart it.

        Raises:
            BoardError: it cannot be made ready.
        """

    async def watch(self) -> str:
        """Keep the board as it should be; return when a restart is needed, and say why."""

    async def stop(self) -> None:
        """Let go of the board, whatever it is doing."""


@runtime_checkable
class Measures(Protocol):
    """A behaviour that measures bitstreams."""

    async def evaluate(self, bitstream: bytes) -> Measurement:
        """Measure one bitstream.

        Raises:
            MeasurementError: there is no measurement, for the reason it has.
        """


@dataclass(frozen=True)
class Endpoint:
    """The agent's end of a device's bytes: a descriptor that whoever takes it closes.

    `usb` describes the device where the bytes are those of USB/IP. `may_wait` tells of bytes from
    the device whether nobody hurries for them.
    """

    fd: int
    usb: UsbDescription | None = None
    may_wait: Callable[[bytes], bool] | None = None


@runtime_checkable
class Streams(Protocol):
    """A behaviour whose holder may open a stream of bytes to the device, one at a time."""

    def open(self) -> AbstractAsyncContextManager[Endpoint]:
        """Connect to the device; the device is free for the next one at the block's end.

        Raises:
            BoardError: it cannot be connected to now.
        """


def installed_behaviours() -> dict[str, type[Behaviour]]:
    """Every behaviour that is installed on this machine, by name."""
    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
