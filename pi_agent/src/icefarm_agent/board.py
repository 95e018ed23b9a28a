"""What the agent needs of a board, whether it is plugged in or virtual."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from icefarm_agent.usb.port import UsbPort

DEFAULT_FIRMWARE = "default"
"""What every board runs between two holders; it prints lines that begin with these words."""
DEFAULT_FIRMWARE_GREETING = "default firmware"


class BoardError(Exception):
    """The board did not do what it should; the text says at which step."""


class FirmwareError(BoardError):
    """A file is no firmware for this board; the board has not been touched."""


class Board(Protocol):
    """A board that can be given a firmware and talked to over its console."""

    name: str
    """Unique on its agent: a serial number."""
    product: str
    labels: Mapping[str, str]
    patience: float
    """Seconds for which the board may say nothing while it works."""

    @property
    def console(self) -> str:
        """The path of the tty that its firmware prints to.

        Raises:
            BoardError: it has none now.
        """

    @property
    def port(self) -> "UsbPort | None":
        """Where it is plugged in; None of a board that is not on a USB."""

    def has_firmware(self, firmware: str) -> bool:
        """Whether there is a firmware of this name for it."""

    async def install(self, firmware: str) -> None:
        """Write a firmware and restart the board with it.

        Raises:
            BoardError: the board did not come back with it.
        """

    def check_firmware(self, image: bytes) -> None:
        """Look whether a UF2 file could be for this board.

        Raises:
            FirmwareError: it could not.
        """

    async def write_firmware(self, image: bytes) -> None:
        """Write a UF2 file of the holder's and restart the board with it.

        Raises:
            BoardError: the board did not come back.
        """

    async def recover(self) -> None:
        """Take it back from whatever has it: let go of it as an exported device.

        Raises:
            BoardError: the system did not let go of it.
        """

    async def watch(self) -> str:
        """Return when it is not what it should be while nobody exports it, and say what it is."""

    async def replugged(self) -> None:
        """Return when the board is new on its bus, so that it may be worth another attempt."""

    async def close(self) -> None:
        """Let go of the board."""


class BoardWithoutUsb:
    """What boards that are on no USB have in common: there is nothing to flash or to take away."""

    labels: Mapping[str, str] = MappingProxyType({})
    port: "UsbPort | None" = None

    def check_firmware(self, image: bytes) -> None:
        """Refuse: there is no processor that could run it."""
        raise FirmwareError(
            "this board has no processor of its own, so it cannot run a firmware of yours; "
            "reserve a real board"
        )

    async def write_firmware(self, image: bytes) -> None:
        """Refuse likewise."""
        self.check_firmware(image)

    async def recover(self) -> None:
        """Return: nobody can have taken it."""

    async def watch(self) -> str:
        """Wait for ever: nobody can take it."""
        return await _never()

    async def replugged(self) -> None:
        """Wait for ever: it has no plug."""
        await _never()


def _never() -> "asyncio.Future[str]":
    return asyncio.get_running_loop().create_future()
