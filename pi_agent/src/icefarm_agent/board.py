"""What the agent needs of a board, whether it is plugged in or virtual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from icefarm_agent.usb.port import UsbPort

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
    labels: Mapping[str, str]
    """By which it may be chosen."""

    @property
    def console(self) -> str:
        """The path of the tty that its firmware prints to.

        Raises:
            BoardError: there is none now.
        """

    @property
    def port(self) -> UsbPort | None:
        """Where it is plugged in now; None for a board that is not on a USB port."""

    def has_firmware(self, firmware: str) -> bool:
        """Whether there is a firmware of that name to install."""

    async def install(self, firmware: str) -> None:
        """Write a firmware of the configuration and restart the board with it.

        Raises:
            BoardError: there is no such firmware, or the board did not come back with it.
        """

    async def write_firmware(self, image: bytes) -> None:
        """Write the holder's own firmware, a UF2 file, and restart the board with it.

        Raises:
            BoardError: it cannot be written, or the board did not come back.
        """

    async def recover(self) -> None:
        """Bring it to a state from which `install` works, whatever was left of a life before.

        It may be bound to usbip-host, in use by somebody far away, without a driver, or in its
        bootloader.

        Raises:
            BoardError: it does not come to that.
        """

    async def close(self) -> None:
        """Let go of the board."""
