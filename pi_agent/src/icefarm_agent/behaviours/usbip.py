"""`usbip`: the whole USB device for its holder, as if it were plugged in there.

The device is bound to the kernel's usbip-host; a stream's bytes are those that the kernel speaks
over a socket (USB/IP, the kernel's Documentation/usb/usbip_protocol.rst). The agent has one end of
that socket, so no port is open and no daemon runs.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from icefarm_agent.behaviours import ArgumentsError, Endpoint
from icefarm_agent.board import Board, BoardError
from icefarm_agent.usb import usbip_host
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.usbip_host import Status

_APPEAR = 10.0
"""Seconds for a device that is being restarted to be on the bus."""
_LOOK_AGAIN = 2.0
"""Seconds between two looks at what the kernel says, of which there is no event."""
_RESET = 2.0
"""Seconds that the kernel takes to reset a device whose connection has ended; 0.3 as measured."""
_PAUSE = 0.02
_HEADER_BYTES, _RET_SUBMIT = 48, b"\0\0\0\3"

log = logging.getLogger(__name__)


def is_write_done(data: bytes) -> bool:
    """Whether this is one USBIP_RET_SUBMIT without data: a transfer to the device has ended.

    What the device answers often follows at once. The header has 48 bytes and begins with the
    command, 3 (the kernel's Documentation/usb/usbip_protocol.rst).
    """
    return len(data) == _HEADER_BYTES and data[:4] == _RET_SUBMIT


class UsbIp:
    """Whatever the device at the port is, also after a reboot into its bootloader, is exported."""

    firmware: ClassVar[str | None] = None

    @classmethod
    def suits(cls, board: Board) -> bool:
        """Whether it is on a USB."""
        return board.port is not None

    def __init__(self, board: Board, arguments: dict[str, Any]) -> None:
        if arguments:
            raise ArgumentsError(f"usbip takes no arguments; it was given {', '.join(arguments)}")
        if board.port is None:
            raise ArgumentsError(f"the board {board.name!r} is on no USB")
        self._port: UsbPort = board.port
        self._bound: int | None = None
        self._is_open = False

    async def start(self) -> None:
        """Bind the device."""
        device = await self._port.until(lambda device: device, _APPEAR, "it is not on the bus")
        await usbip_host.bind(self._port.busid)
        self._bound = device.devnum

    async def stop(self) -> None:
        """Give it back to its usual driver."""
        await usbip_host.unbind(self._port.busid)

    async def watch(self) -> str:
        """Compare what the kernel says with what should be, after each event and now and then."""
        while True:
            changed = asyncio.ensure_future(self._port.changed())
            try:
                if (fault := await self._look()) is not None:
                    return fault
                await asyncio.wait([changed], timeout=_LOOK_AGAIN)
            finally:
                changed.cancel()

    async def _look(self) -> str | None:
        device, status = self._port.device, usbip_host.status(self._port.busid)
        if device is None:
            return None  # It may be rebooting; whether it is gone is for others to decide.
        if device.devnum != self._bound:
            # Its holder has rebooted it, into its bootloader perhaps, and wants that one now.
            log.info("exporting %s, which is new at its port", device)
            await usbip_host.bind(self._port.busid)
            self._bound = device.devnum
            return None
        if status is None:
            return f"it should be exported, but its driver is {device.driver}"
        if status is Status.ERROR:
            return "the kernel reports an error of the exported device"
        if status is Status.USED and not self._is_open:
            return "the kernel has it in use, though no stream is open"
        return None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        """Hand one end of a socket pair to the kernel."""
        busid = self._port.busid
        if not await self._becomes_free():
            raise BoardError(f"the device at {busid} is not free: {self._status_text()}")
        device = self._port.device
        if device is None:
            raise BoardError(f"the device at {busid} is off the bus")
        ours, kernels = socket.socketpair()
        # Before the kernel has it, or it would be taken for one that nobody uses.
        self._is_open = True
        try:
            with ours, kernels:
                await usbip_host.hand_over(busid, kernels)
                endpoint = Endpoint(ours.detach(), device.describe(), is_write_done)
            yield endpoint
        finally:
            # Our end is closed, so the kernel lets go by itself; if not, it is told to.
            if not await self._becomes_free():
                log.warning("the kernel keeps %s in use; it is told to drop it", busid)
                await usbip_host.drop(busid)
                await self._becomes_free()
            self._is_open = False

    async def _becomes_free(self) -> bool:
        """Wait for the end of the kernel's reset, and tell whether it came."""
        deadline = time.monotonic() + _RESET
        while usbip_host.status(self._port.busid) is Status.USED:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    def _status_text(self) -> str:
        status = usbip_host.status(self._port.busid)
        return "not bound to usbip-host" if status is None else status.name.lower()
