"""Virtual boards in a machine, from the tests' side; `picos.py` is what serves this inside."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.waiting import until

from kernel.machine import GuestError, Machine
from kernel.picos import HIGH_SPEED, PORTS, SOCKET, BoardState


class Board:
    """One that was made by `Boards.plug`; where it shows itself is known by its port alone."""

    def __init__(self, boards: "Boards", state: BoardState) -> None:
        self._boards = boards
        self.port, self.busid, self.serial = state.port, state.busid, state.serial

    @property
    def state(self) -> BoardState:
        """What it tells of itself."""
        return BoardState(**self._ask("state"))

    def plug(self, *, bootloader: bool = False) -> None:
        """Put its cable in again; with its button pressed it comes as a bootloader."""
        self._ask("plug", bootloader=bootloader)

    def unplug(self) -> None:
        """Pull its cable."""
        self._ask("unplug")

    def misbehave(self, *faults: str, unplug_at_block: int | None = None) -> None:
        """From now on; the faults are the constants of `picos`, none makes it well again.

        Args:
            faults: what it does wrong.
            unplug_at_block: it loses its cable when so many UF2 blocks were taken, once.
        """
        self._ask("misbehave", faults=faults, unplug_at_block=unplug_at_block)

    def wait_for_tty(self) -> str:
        """The path of its tty, once its machine has it."""
        return "/dev/" + self._wait_for("tty/tty*", "its tty")

    def wait_for_disk(self) -> str:
        """The path of its bootloader's disk, once its machine has it and can read it."""
        return "/dev/" + self._wait_for("host*/target*/*/block/*/sd*1/..", "its bootloader's disk")

    def wait_until_flashed(self) -> None:
        """Until it is out of its bootloader; it may be back as something else by now."""
        until(lambda: self.state.mode != "boot", "out of its bootloader")

    def wait_until_gone(self) -> None:
        """Until its machine sees nothing at its port; it must be one that stays away."""
        machine = self._boards.machine
        until(lambda: not machine.glob(f"/sys/bus/usb/devices/{self.busid}"), "off the bus")

    def _wait_for(self, pattern: str, what: str) -> str:
        machine = self._boards.machine
        folder = f"/sys/bus/usb/devices/{self.busid}/{self.busid}:1.0/{pattern}"
        (path,) = until(lambda: machine.glob(folder), f"{what} at {self.busid}")
        is_disk, node = path.endswith("/.."), Path(path.removesuffix("/.."))
        # It comes before udev has heard of it; of a disk, the partition is what it hears of last.
        number = machine.read(f"{node}/dev").decode().strip()
        known = f"/run/udev/data/{'b' if is_disk else 'c'}{number}"
        until(lambda: machine.glob(known), f"what udev knows of {node.name}")
        machine.run("udevadm", "settle")
        return node.parent.name if is_disk else node.name

    def _ask(self, command: str, **arguments: Any) -> Any:
        return self._boards.ask(command, port=self.port, **arguments)


class Boards:
    """All boards of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._boards: dict[int, Board] = {}
        self._serials = itertools.count(1)
        self._ports = itertools.cycle(range(PORTS))
        self.kept: Board | None = None
        """One that stays plugged in from test to test, which spares two flashes in each."""

    def load(self, *, high_speed: bool = False) -> None:
        """Make the ports; to be called once after each boot of the machine.

        Args:
            high_speed: they are of high speed, and not of full speed as a Pico is.

        Raises:
            GuestError: the kernel has not what virtual boards need; the text has its words.
        """
        self._boards.clear()
        self.kept = None
        path = str(Path(__file__).parents[1])
        self.machine.start(
            "picos",
            *(sys.executable, "-S", "-m", "kernel.picos"),
            *([HIGH_SPEED] if high_speed else []),
            env={"PYTHONPATH": path},
        )
        until(
            lambda: self.machine.glob(SOCKET) or not self.machine.running("picos"),
            "virtual boards",
            timeout=60,
        )
        if not self.machine.running("picos"):
            raise GuestError(f"no virtual boards: {self.machine.log('picos')}")

    def plug(
        self,
        firmware: str = "default",
        *,
        serial: str | None = None,
        model: str = "Pico",
        bootloader: bool = False,
    ) -> Board:
        """A new board, plugged in, with its button pressed for the `bootloader`; else see `add`."""
        board = self.add(firmware, serial=serial, model=model)
        board.plug(bootloader=bootloader)
        return board

    def add(
        self,
        firmware: str = "default",
        *,
        serial: str | None = None,
        model: str = "Pico",
    ) -> Board:
        """A new board that is not plugged in yet: what happens to it then can be prepared.

        Args:
            firmware: a name in `firmwares.FIRMWARES`.
            serial: one that no other board has, where none is given.
            model: a name in `picos.MODELS`.
        """
        # Not where another one was a moment ago: as long as an agent writes to that one, what comes
        # back at its port is taken for it.
        port = next(number for number in self._ports if number not in self._boards)
        serial = serial or f"E6614C311B{next(self._serials):06X}"
        state = self.ask("add", port=port, serial=serial, model=model, firmware=firmware)
        self._boards[port] = board = Board(self, BoardState(**state))
        return board

    def __iter__(self) -> Iterator[Board]:
        """Those that were made since the last `remove_all`."""
        return iter(self._boards.values())

    def list(self) -> list[BoardState]:
        """What each of them tells."""
        return [board.state for board in self]

    def remove_all(self) -> None:
        """Pull all cables but that of the one that is kept, and forget the boards."""
        for board in list(self):
            if board is not self.kept:
                board.unplug()
                board.wait_until_gone()
                del self._boards[board.port]

    def ask(self, command: str, **arguments: Any) -> Any:
        """Give a command. Raises GuestError where it is refused."""
        question = json.dumps({"do": command, **arguments}).encode()
        answer = json.loads(self.machine.ask(SOCKET, question))
        if "error" in answer:
            raise GuestError(f"virtual boards: {answer['error']}")
        return answer["result"]
