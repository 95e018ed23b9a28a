"""A place on the bus. What is plugged in there may come and go; the place stays."""

import asyncio
from collections.abc import Callable
from typing import Literal, TypeVar

from icefarm_agent.board import BoardError
from icefarm_agent.usb.device import UsbDevice

T = TypeVar("T")


class UsbPort:
    """Where a board is plugged in, by its `busid` such as "1-1.2".

    Args:
        read: the device that is at a place now; called for each look at it.
    """

    def __init__(self, busid: str, read: Callable[[str], UsbDevice | None]) -> None:
        self.busid = busid
        self._read = read
        self._event = asyncio.Event()

    @property
    def device(self) -> UsbDevice | None:
        """What is plugged in at this moment."""
        return self._read(self.busid)

    def notify(self) -> None:
        """Something happened there: let those who wait look again."""
        self._event.set()
        self._event = asyncio.Event()

    async def changed(self) -> None:
        """Return when something has happened there: plugged in, bound, a tty has come ..."""
        await self._event.wait()

    async def until(
        self,
        condition: Callable[[UsbDevice | None], T | Literal[False] | None],
        timeout: float,
        what: str,
    ) -> T:
        """Wait until what is plugged in fulfils a condition; return what the condition returned.

        Args:
            condition: false (or None) as long as it is not fulfilled.
            timeout: in seconds.
            what: says what was waited for, in the error.

        Raises:
            BoardError: it did not within `timeout`.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    event = self._event
                    if fulfilled := condition(self.device):
                        return fulfilled
                    await event.wait()
        except TimeoutError:
            device = self.device
            raise BoardError(
                f"{what}; waited {timeout:g} s at the USB port {self.busid}, where there is "
                f"{'nothing' if device is None else device}"
            ) from None
