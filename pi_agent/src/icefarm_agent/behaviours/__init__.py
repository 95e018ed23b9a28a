"""Behaviours: what a reserved board does. Each is a class, found by its entry point's name."""

from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from icefarm_agent.board import Board
from icefarm_schemas import Error, ErrorCode, Measurement

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
    """One board serving one reservation: started, used for evaluations, stopped."""

    firmware: ClassVar[str]
    """What the board must run."""

    def __init__(self, board: Board, arguments: dict[str, Any]) -> None:
        """Raise ArgumentsError for arguments that are not its own."""

    async def start(self) -> None:
        """Make the board ready; called again to restart it.

        Raises:
            BoardError: it cannot be made ready.
        """

    async def evaluate(self, bitstream: bytes) -> Measurement:
        """Measure one bitstream.

        Raises:
            MeasurementError: there is no measurement, for the reason it has.
        """

    async def stop(self) -> None:
        """Let go of the board, whatever it is doing."""


def installed_behaviours() -> dict[str, type[Behaviour]]:
    """Every behaviour that is installed on this machine, by name."""
    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
