"""Which board is where, as devices come and go on a bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.waiting import until_async

from icefarm_agent.board import BoardError
from icefarm_agent.usb.board import UsbBoard
from icefarm_agent.usb.configuration import Configuration
from icefarm_agent.usb.device import UsbDevice
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.recognition import InBootloader, Running, board_name, recognise
from icefarm_agent.usb.roster import Roster

from .usb_devices import BOOTLOADER, MOUSE, RUNNING, Bus

# Places that no machine has, so that nothing of the kernel's is touched.
HERE, THERE = "9999-1", "9999-2"
SERIAL = str(RUNNING.serial)
FOREIGN = {"vendor_id": 0xCAFE, "product_id": 0x4001, "model": "TinyUSB_Device", "serial": "123456"}


@pytest.mark.parametrize(
    ("device", "what"),
    [
        (RUNNING, Running),
        (replace(RUNNING, model="pico-ice", vendor_id=0x1209), Running),
        (replace(RUNNING, model="RP2350"), Running),
        (BOOTLOADER, InBootloader),
        (replace(BOOTLOADER, product_id=0x000F), InBootloader),
        (replace(RUNNING, serial="ignored"), None),
        (replace(RUNNING, serial=None), None),
        (replace(RUNNING, model="Debug_Probe"), None),
        (replace(RUNNING, vendor_id=0x1234), None),
        (MOUSE, None),
        (None, None),
    ],
)
def test_recognition(device: UsbDevice | None, what: type | None) -> None:
    configuration = replace(Configuration.load(), ignored=frozenset({"ignored"}))
    found = recognise(configuration, device)
    assert found is None if what is None else isinstance(found, what)


@pytest.mark.parametrize(
    ("serial", "name"),
    [
        (SERIAL, SERIAL),
        ("a/b+c#d", "a-b-c-d"),
        (" $x ", "x"),
        ("1\n2", "1-2"),
        ("9" * 70, "9" * 64),
    ],
)
def test_names(serial: str, name: str) -> None:
    assert board_name(serial) == name


async def test_a_roster_that_is_closed_looks_no_more() -> None:
    async with asyncio.TaskGroup() as tasks:
        rostered = Rostered(Bus(), tasks)
        rostered.bus.plug(HERE, RUNNING)
        rostered.roster.close()
        rostered.roster.look(HERE)
        assert not rostered.roster.places


async def _says(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return what in caplog.text


class Rostered:
    """A roster and what it reported, in order."""

    def __init__(self, bus: Bus, tasks: asyncio.TaskGroup) -> None:
        self.bus = bus
        self.reports: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self.boards: dict[str, UsbBoard] = {}
        self.roster = Roster(Configuration.load(), bus.get, self._found, self._lost, tasks)

    def _found(self, board: UsbBoard) -> None:
        self.boards[board.name] = board
        self.reports.put_nowait(("found", board.name, board.port.busid))

    def _lost(self, board: UsbBoard) -> None:
        del self.boards[board.name]
        self.reports.put_nowait(("lost", board.name, board.port.busid))

    def plug(self, busid: str, device: UsbDevice, **changes: Any) -> None:
        self.bus.plug(busid, device, **changes)
        self.roster.look(busid)

    def unplug(self, busid: str) -> None:
        del self.bus[busid]
        self.roster.look(busid)

    async def report(self) -> tuple[str, str, str]:
        async with asyncio.timeout(10):
            return await self.reports.get()


class _OverError(Exception):
    """Ends a task group and all that runs in it."""


@asynccontextmanager
async def rostered() -> AsyncIterator[Rostered]:
    try:
        async with asyncio.TaskGroup() as tasks:
            yield Rostered(Bus(), tasks)
            raise _OverError
    except* _OverError:
        # Whatever else went wrong is raised.
        ...


async def test_a_board_is_found_and_lost() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        assert await lab.report() == ("found", SERIAL, HERE)
        assert lab.boards[SERIAL].console == "/dev/ttyACM0"
        lab.unplug(HERE)
        with pytest.raises(BoardError, match="nothing at its USB port"):
            assert lab.boards[SERIAL].console
        assert await lab.report() == ("lost", SERIAL, HERE)


async def test_another_device_is_left_alone() -> None:
    async with rostered() as lab:
        lab.plug(THERE, MOUSE)
        lab.plug(HERE, RUNNING)
        assert await lab.report() == ("found", SERIAL, HERE)
        assert lab.reports.empty()


async def test_what_appears_in_a_boards_place_is_that_board() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        board = lab.boards[SERIAL]
        lives: list[tuple[UsbDevice, dict[str, Any]]] = [
            (BOOTLOADER, {}),
            (RUNNING, {"ttys": (), "driver": "usbip-host"}),
            (RUNNING, FOREIGN),
            # Its holder's firmware calls itself a Pico, with a serial number of its own.
            (RUNNING, {"serial": "123456"}),
            (RUNNING, {}),
        ]
        for device, changes in lives:
            lab.unplug(HERE)
            lab.plug(HERE, device, **changes)
        assert lab.boards == {SERIAL: board}
        lab.unplug(HERE)
        assert await lab.report() == ("lost", SERIAL, HERE)


async def test_another_board_in_its_place_is_another_board() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        lab.unplug(HERE)
        lab.plug(HERE, RUNNING, serial="E6614C311B7E0002")
        assert await lab.report() == ("lost", SERIAL, HERE)
        assert await lab.report() == ("found", "E6614C311B7E0002", HERE)


async def test_a_board_that_moves_stays_the_same() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        board = lab.boards[SERIAL]
        lab.unplug(HERE)
        lab.plug(THERE, RUNNING)
        assert (board.port.busid, lab.boards) == (THERE, {SERIAL: board})
        # Another one in its old place is no reason to doubt it.
        lab.plug(HERE, RUNNING, serial="E6614C311B7E0002")
        assert await lab.report() == ("found", "E6614C311B7E0002", HERE)
        assert lab.boards[SERIAL] is board


async def test_a_second_board_with_the_serial_number_waits_until_the_first_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        lab.plug(THERE, RUNNING)
        lab.roster.look(THERE)
        assert caplog.text.count(f"with its serial number {SERIAL} is at the USB port {HERE}") == 1
        lab.unplug(HERE)
        assert await lab.report() == ("lost", SERIAL, HERE)
        assert await lab.report() == ("found", SERIAL, THERE)


async def test_a_board_that_is_forgotten_is_found_again_where_it_is() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        board = lab.boards[SERIAL]
        assert lab.roster.forget(SERIAL)
        assert await lab.report() == ("lost", SERIAL, HERE)
        assert await lab.report() == ("found", SERIAL, HERE)
        assert lab.boards[SERIAL] is not board
        assert not lab.roster.forget("nosuch")


async def test_a_board_with_a_holders_firmware_is_forgotten_and_found_by_its_place() -> None:
    async with rostered() as lab:
        lab.plug(HERE, RUNNING)
        await lab.report()
        lab.boards[SERIAL].foreign = True
        lab.plug(HERE, RUNNING, **FOREIGN)
        assert lab.roster.forget(SERIAL)
        assert await lab.report() == ("lost", SERIAL, HERE)
        assert await lab.report() == ("found", SERIAL, HERE)


async def test_a_bootloader_without_a_default_firmware_says_where_to_put_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rostered() as lab:
        lab.plug(HERE, BOOTLOADER)
        await until_async(lambda: _says(caplog, "no default firmware"))
        assert 'default = "file.uf2"` under [firmware] in the agent' in caplog.text
        # Somebody flashes it by hand.
        lab.unplug(HERE)
        lab.plug(HERE, RUNNING)
        assert await lab.report() == ("found", SERIAL, HERE)


async def test_waiting_at_a_port_ends_with_what_it_waited_for() -> None:
    bus = Bus()
    port = UsbPort(HERE, bus.get)
    waiting = asyncio.create_task(
        port.until(lambda device: device is not None and device.console, 5, "no console")
    )
    await asyncio.sleep(0)
    bus.plug(HERE, RUNNING, ttys=())
    port.notify()
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.plug(HERE, RUNNING)
    port.notify()
    assert await waiting == "/dev/ttyACM0"
    with pytest.raises(
        BoardError, match=r"no mouse; waited 0.01 s at .*9999-1, where there is Pico"
    ):
        await port.until(lambda device: device is None, 0.01, "no mouse")
