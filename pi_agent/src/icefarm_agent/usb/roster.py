"""Which board is plugged in where, told from what is at each place now.

It is told that something happened at a place on the bus, and looks what is there, so that no event
has to be understood and none that is missed does harm:

* A device with a recognised serial number is that board, wherever it is plugged in. Where the board
  is already in another place that has a device, it is a second one of the same serial number, and
  refused.
* What appears where a board is plugged in is that board: its bootloader, which does not say which
  board it is, or a firmware of its holder's that calls itself something else.
* A bootloader where no board is known was left there by a life before, or is new. It is given its
  product's default firmware, and then says who it is.
* A board that is off the bus for longer than a firmware takes to restart is lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from structlog.contextvars import bind_contextvars

from icefarm_agent.board import DEFAULT_FIRMWARE, BoardError
from icefarm_agent.usb import usbip_host
from icefarm_agent.usb.board import UsbBoard
from icefarm_agent.usb.configuration import Configuration, Product
from icefarm_agent.usb.device import UsbDevice
from icefarm_agent.usb.flashing import flash
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.recognition import InBootloader, Running, board_name, recognise

log = logging.getLogger(__name__)

LOST_AFTER = 3.0
"""Seconds off the bus after which a board is lost; a restart takes about one."""
CONSOLE_TIMEOUT = 5.0
"""Seconds that a new board has to show its console before it is reported without one."""
DRIVER_TIMEOUT = 2.0
"""Seconds in which the kernel gives a new device its driver."""
TRY_AGAIN = 60.0
"""Seconds after which a bootloader that could not be given its firmware is tried again."""

K = TypeVar("K")


class Roster:
    """The boards and their places.

    Args:
        read: the device that is at a place now.
        found: called with each new board, when it can be used.
        lost: called when one of those is gone.
        tasks: runs what takes time; cancelling it ends all of that.
    """

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[str], UsbDevice | None],
        found: Callable[[UsbBoard], None],
        lost: Callable[[UsbBoard], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._configuration = configuration
        self._read = read
        self._found = found
        self._lost = lost
        self._tasks = tasks
        self._ports: dict[str, UsbPort] = {}
        self._boards: dict[str, UsbBoard] = {}
        self._at: dict[str, UsbBoard] = {}
        self._reported: set[UsbBoard] = set()
        self._appearing: dict[UsbBoard, asyncio.Task[None]] = {}
        self._leaving: dict[UsbBoard, asyncio.Task[None]] = {}
        self._adopting: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, str] = {}
        # Where a bootloader has just been given its default firmware.
        self._fresh: set[str] = set()
        self._is_closed = False

    @property
    def places(self) -> frozenset[str]:
        """Where something has been seen."""
        return frozenset(self._ports)

    def look(self, place: str) -> None:
        """Compare what is at a place with what is known of it."""
        if self._is_closed:
            return  # A flash that is cancelled with all the rest would have it look once more.
        port = self._port(place)
        port.notify()
        if place in self._adopting:
            return
        device = port.device
        board = self._at.get(place)
        if board is not None and device is not None and device.driver == usbip_host.DRIVER:
            board.foreign = True
        match recognise(self._configuration, device):
            case Running(product, serial):
                self._running(port, product, serial)
            case InBootloader(product) if board is None:
                self._start(self._adopting, place, partial(self._adopt, port, product))
                self._adopting[place].add_done_callback(lambda _: self.look(place))
            case _ if device is not None:
                self._stays(board)
            case None if board is not None:
                self._is_off(board)
        if device is None:
            self._refused.pop(place, None)

    def forget(self, name: str) -> bool:
        """Lose a board and look for it anew where it is; False when it is not known."""
        board = self._boards.get(name)
        if board is None:
            return False
        place, is_foreign = board.port.busid, board.foreign
        log.info("%s at the USB port %s is forgotten", name, place)
        self._drop(board)
        if is_foreign:
            # What it says of itself now is a firmware's of its holder's.
            self.remember(place, name, board.product)
        self.look(place)
        return True

    def close(self) -> None:
        """Find and lose nothing any more."""
        self._is_closed = True

    def remember(self, place: str, name: str, product: str) -> None:
        """A board was at a place in a former life of this agent.

        What is there now and calls itself something that we do not know is that board still, with
        a firmware of its holder's: if it is given away over USB/IP, or has a serial port by which
        it can be rebooted.
        """
        port = self._port(place)
        device = port.device
        if device is None or name in self._boards or place in self._at:
            return
        reachable = bool(device.ttys) or device.driver == usbip_host.DRIVER
        ignored = device.serial in self._configuration.ignored
        if reachable and not ignored and recognise(self._configuration, device) is None:
            log.info(
                "%s is at the USB port %s with a firmware of its holder's",
                name,
                place,
                extra={"device": name},
            )
            products = self._configuration.products
            kind = next((kind for kind in products if kind.name == product), products[0])
            self._appear(name, kind, port)
            self._boards[name].foreign = True

    def _port(self, place: str) -> UsbPort:
        return self._ports.setdefault(place, UsbPort(place, self._read))

    def _running(self, port: UsbPort, product: Product, serial: str) -> None:
        try:
            name = board_name(serial)
        except ValueError as error:
            self._refuse(port, f"its serial number cannot name it: {error}")
            return
        here, known = self._at.get(port.busid), self._boards.get(name)
        disguised = here is not None and known is None and (here.flashing or here.foreign)
        if here is not None and (here is known or disguised):
            self._stays(here)
        elif known is not None and known.port.device is not None:
            self._refuse(
                port,
                f"a board with its serial number {serial} is at the USB port {known.port.busid} "
                "already, and boards are told apart by it",
            )
        else:
            if here is not None:
                self._drop(here)
            if known is not None:
                self._move(known, port)
            else:
                self._appear(serial, product, port)

    def _refuse(self, port: UsbPort, why: str) -> None:
        if self._refused.get(port.busid) != why:
            self._refused[port.busid] = why
            log.warning("the board at the USB port %s is not used: %s", port.busid, why)

    def _move(self, board: UsbBoard, port: UsbPort) -> None:
        log.info(
            "%s moved from the USB port %s to %s",
            board.name,
            board.port.busid,
            port.busid,
            extra={"device": board.name},
        )
        before = board.port
        del self._at[before.busid]
        board.port = port
        self._at[port.busid] = board
        self._stays(board)
        before.notify()

    def _appear(self, serial: str, product: Product, port: UsbPort) -> None:
        board = UsbBoard(serial, product, port, self._configuration, self._settled)
        board.is_fresh = port.busid in self._fresh
        self._fresh.discard(port.busid)
        self._boards[board.name] = self._at[port.busid] = board
        self._start(self._appearing, board, partial(self._prepare, board))

    async def _prepare(self, board: UsbBoard) -> None:
        """Report a board when it can be used, or else so that it is seen to be broken."""
        bind_contextvars(device=board.name)  # This task is the board's own.
        busid = board.port.busid
        try:
            driver = None
            with suppress(BoardError):
                # What was only just plugged in gets its driver by itself.
                driver = await board.port.until(
                    lambda device: device is not None and device.driver, DRIVER_TIMEOUT, "no driver"
                )
            if driver != usbip_host.USUAL_DRIVER or busid in usbip_host.matched():
                log.info("%s was left given away, or without a driver; taking it back", board.name)
                await board.recover()
            await board.port.until(
                lambda device: device is not None and device.console is not None,
                CONSOLE_TIMEOUT,
                "it shows no serial port",
            )
        except BoardError as error:
            log.warning("%s is reported although it cannot be used yet: %s", board.name, error)
        if self._boards.get(board.name) is board:
            log.info("%s is at the USB port %s", board.name, busid)
            self._reported.add(board)
            self._found(board)

    def _stays(self, board: UsbBoard | None) -> None:
        if board is not None and (leaving := self._leaving.pop(board, None)):
            leaving.cancel()

    def _is_off(self, board: UsbBoard) -> None:
        # A flash has time limits of its own; when it is over, this is looked at again.
        if not board.flashing and board not in self._leaving:
            self._start(self._leaving, board, partial(self._leave, board))

    async def _leave(self, board: UsbBoard) -> None:
        await asyncio.sleep(LOST_AFTER)
        if not board.flashing:
            log.info(
                "%s is gone from the USB port %s",
                board.name,
                board.port.busid,
                extra={"device": board.name},
            )
            self._drop(board)

    def _settled(self, board: UsbBoard) -> None:
        if self._at.get(board.port.busid) is board:
            self.look(board.port.busid)

    def _drop(self, board: UsbBoard) -> None:
        self._boards.pop(board.name, None)
        self._at.pop(board.port.busid, None)
        for tasks in (self._appearing, self._leaving):
            if (task := tasks.pop(board, None)) and task is not asyncio.current_task():
                task.cancel()
        if board in self._reported:
            self._reported.discard(board)
            self._lost(board)
        # One that was refused because of it may be the board from now on.
        for place in list(self._refused):
            self.look(place)

    async def _adopt(self, port: UsbPort, product: Product) -> None:
        """Give a bootloader that nobody knows its default firmware, so that it says who it is."""
        image = product.firmware.get(DEFAULT_FIRMWARE)
        if image is None:
            log.warning(
                "a %s in its bootloader is at the USB port %s, but there is no default firmware to "
                'give it: put a line `default = "file.uf2"` under [firmware] in %s',
                product.name,
                port.busid,
                self._configuration.source,
            )
            while self._is_bootloader(port.device):
                await port.changed()
            return
        while self._is_bootloader(port.device):
            log.info(
                "a %s in its bootloader is at the USB port %s; giving it its default firmware",
                product.name,
                port.busid,
            )
            try:
                await usbip_host.unbind(port.busid)
                await flash(port, product, image)
                self._fresh.add(port.busid)
            except BoardError as error:
                log.warning("that failed at the USB port %s: %s", port.busid, error)
                await self._wait_for_another(port)

    def _is_bootloader(self, device: UsbDevice | None) -> bool:
        return isinstance(recognise(self._configuration, device), InBootloader)

    async def _wait_for_another(self, port: UsbPort) -> None:
        """Until something else is plugged in there, or for a while."""
        before = port.device
        try:
            async with asyncio.timeout(TRY_AGAIN):
                while before is not None and (now := port.device) and now.devnum == before.devnum:
                    await port.changed()
        except TimeoutError:
            log.info("trying the bootloader at the USB port %s again", port.busid)

    def _start(
        self, tasks: dict[K, asyncio.Task[None]], key: K, work: Callable[[], Awaitable[None]]
    ) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception:
                # The other boards go on.
                log.exception("looking after the board at a USB port failed")

        tasks[key] = task = self._tasks.create_task(run())

        def over(_: asyncio.Task[None]) -> None:
            if tasks.get(key) is task:
                del tasks[key]

        task.add_done_callback(over)
