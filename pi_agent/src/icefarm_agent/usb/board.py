"""A board that is plugged in."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from icefarm_agent.board import DEFAULT_FIRMWARE, BoardError
from icefarm_agent.metrics import counted_flash
from icefarm_agent.usb import usbip_host
from icefarm_agent.usb.configuration import Configuration, Product
from icefarm_agent.usb.device import UsbDevice
from icefarm_agent.usb.flashing import flash
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.recognition import board_name
from icefarm_agent.usb.uf2 import Uf2, parse_uf2

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
"""Seconds between two looks at it without an event."""
_SETTLING = 1.5
"""Seconds for which a fault must last: a board that is restarting has no tty for a moment."""
_RECOVERY_TIMEOUT = 10.0
"""Seconds for a board that got its driver back to show a tty or its bootloader's disk."""


class UsbBoard:
    """A board, by its serial number, wherever it is plugged in and whatever firmware it runs.

    Args:
        settled: called when a flash is over, however it ended.
    """

    patience = 10.0

    def __init__(
        self,
        serial: str,
        product: Product,
        port: UsbPort,
        configuration: Configuration,
        settled: Callable[["UsbBoard"], None],
    ) -> None:
        self.name = board_name(serial)
        self.product = product.name
        self.labels: Mapping[str, str] = configuration.labels_of(product, serial)
        self.flashing = False
        """It may be off the bus for a while."""
        self.is_fresh = False
        """It has just been given its default firmware, and nobody has used it since."""
        self.foreign = False
        """Somebody else may have written its firmware, so it may call itself anything."""
        self._kind = product
        self._port = port
        self._configuration = configuration
        self._settled = settled

    @property
    def port(self) -> UsbPort:
        """Where it is plugged in now."""
        return self._port

    @port.setter
    def port(self, port: UsbPort) -> None:
        self._port = port

    @property
    def console(self) -> str:
        """The path of its firmware's tty now.

        Raises:
            BoardError: there is none.
        """
        device = self._port.device
        if device is None:
            raise BoardError(f"there is nothing at its USB port {self._port.busid} now")
        if device.console is not None:
            return device.console
        if device.driver == usbip_host.DRIVER:
            raise BoardError("it is given away over USB/IP, so it has no console here")
        if device.ids in self._kind.bootloaders:
            raise BoardError("it is in its bootloader, so it has no console")
        raise BoardError(f"its firmware has no console on USB: {device}")

    def has_firmware(self, firmware: str) -> bool:
        """Whether the configuration has a firmware of that name for this product."""
        return firmware in self._kind.firmware

    async def install(self, firmware: str) -> None:
        """Write a firmware of the configuration and restart the board with it.

        Raises:
            BoardError: there is no such firmware, or the board did not come back with it.
        """
        fresh, self.is_fresh = self.is_fresh, False
        if fresh and firmware == DEFAULT_FIRMWARE:
            return
        image = self._kind.firmware.get(firmware)
        if image is None:
            raise BoardError(
                f"there is no firmware {firmware!r} for {self.product}: put a line "
                f'`{firmware} = "file.uf2"` under [firmware] in {self._configuration.source}'
            )
        async with self._flashing():
            await self._flash(image, console=True)
            self.foreign = False

    async def write_firmware(self, image: bytes) -> None:
        """Write a UF2 file that its holder sent, and restart the board with it.

        Raises:
            FirmwareError: it is no UF2 file, damaged, or for another chip.
            BoardError: the board did not come back on the bus.
        """
        parsed = self._parse(image)
        async with self._flashing():
            self.foreign = True
            await self._flash(parsed, console=False)

    def check_firmware(self, image: bytes) -> None:
        """Look whether a UF2 file could be for this board.

        Raises:
            FirmwareError: it is no UF2 file, damaged, or for another chip.
        """
        self._parse(image)

    def _parse(self, image: bytes) -> Uf2:
        parsed = parse_uf2(image)
        if accepted := self._kind.families():
            parsed.check_chip(accepted)
        return parsed

    async def recover(self) -> None:
        """Bring it to a state from which `install` works, whatever was left of a life before.

        Afterwards it has its usual driver, and a tty or its bootloader's disk.

        Raises:
            BoardError: it does not come to that.
        """
        await usbip_host.unbind(self._port.busid)
        await self._port.until(
            _usable,
            _RECOVERY_TIMEOUT,
            "the board did not come back to its usual driver: unplug it and plug it in again",
        )

    async def watch(self) -> str:
        """Return when it is not usable here, and say what it is; a restart of its own is no fault.

        A firmware of its holder's may be without a console.
        """
        fault: str | None = None
        since = time.monotonic()
        while True:
            changed = asyncio.ensure_future(self._port.changed())
            try:
                before, fault = fault, self._fault()
                if fault != before:
                    since = time.monotonic()
                left = since + _SETTLING - time.monotonic()
                if fault is not None and left <= 0:
                    return fault
                await asyncio.wait([changed], timeout=_LOOK_AGAIN if fault is None else left)
            finally:
                changed.cancel()

    def _fault(self) -> str | None:
        device = self._port.device
        if device is None:
            return None  # Whether it is gone is decided where boards are found.
        if device.driver != usbip_host.USUAL_DRIVER:
            return f"somebody has bound it to {device.driver or 'no driver'}"
        if device.ids in self._kind.bootloaders:
            return "it is in its bootloader"
        if device.console is None and not self.foreign:
            return "it shows no serial port"
        return None

    async def replugged(self) -> None:
        """Return when there is something else, or itself anew, where it is plugged in."""
        before = self._port.device
        while (now := self._port.device) is None or (before and now.devnum == before.devnum):
            await self._port.changed()

    async def close(self) -> None:
        """Let go of it: it is no longer given away over USB/IP."""
        if usbip_host.driver_of(self._port.busid) == usbip_host.DRIVER:
            await usbip_host.unbind(self._port.busid)

    async def _flash(self, image: Uf2, *, console: bool) -> None:
        device = self._port.device
        if device is not None and device.driver != usbip_host.USUAL_DRIVER:
            await self.recover()
        with counted_flash():
            await flash(self._port, self._kind, image, console=console)

    @asynccontextmanager
    async def _flashing(self) -> AsyncIterator[None]:
        self.flashing = True
        try:
            yield
        finally:
            self.flashing = False
            self._settled(self)


def _usable(device: UsbDevice | None) -> bool:
    return (
        device is not None
        and device.driver == usbip_host.USUAL_DRIVER
        and bool(device.ttys or device.disks)
    )
