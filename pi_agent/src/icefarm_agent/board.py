"""What the agent needs of a board, whether it is plugged in or virtual."""

from typing import Protocol

DEFAULT_FIRMWARE = "default"
"""What every board runs between two holders; it prints lines that begin with these words."""
DEFAULT_FIRMWARE_GREETING = "default firmware"


class BoardError(Exception):
    """The board did not do what it should; the text says at which step."""


class Board(Protocol):
    """A board that can be given a firmware and talked to over its console."""

    name: str
    """Unique on its agent: a serial number."""
    product: str
    patience: float
    """Seconds for which the board may say nothing while it works."""

    @property
    def console(self) -> str:
        """The path of the tty that its firmware prints to."""

    async def install(self, firmware: str) -> None:
        """Write a firmware and restart the board with it.

        Raises:
            BoardError: the board did not come back with it.
        """

    async def close(self) -> None:
        """Let go of the board."""
