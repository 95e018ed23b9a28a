"""The desk: the machine of somebody who has a board of the lab attached."""

import sys
from dataclasses import dataclass

from support.waiting import until

import icefarm
from kernel import holder
from kernel.boards import Board
from kernel.machine import Machine
from kernel.scenario import Farm

VHCI = "/sys/devices/platform/vhci_hcd.0/status"


@dataclass
class Desk:
    """The machine of somebody who has a board attached."""

    machine: Machine
    farm: Farm

    def attach(self, held: icefarm.Reservation | Board, grace: float = 10) -> str:
        """Start a holder, and wait for the tty of its board."""
        self.start(held, grace)
        return self.wait_for_tty()

    def start(self, held: icefarm.Reservation | Board, grace: float = 10) -> None:
        """Start a holder of a reservation that is kept, or of a board, which it reserves."""
        what = ("board", held.serial) if isinstance(held, Board) else ("reservation", held.id)
        program = (sys.executable, holder.__file__, str(grace), *what)
        self.machine.start("holder", *program, env=self.farm.environment)

    def wait_for_tty(self, since: int = 0) -> str:
        """The tty, when it has been attached after the holder had said so many words."""

        def attached() -> str | None:
            said = [line.split() for line in self.machine.log("holder").splitlines()]
            ttys = [words[1] for words in said[since:] if words[0] == "attached" and words[1:]]
            assert self.machine.running("holder"), self.machine.log("holder")
            return ttys[-1] if ttys else None

        tty = until(attached, "a tty at the desk", timeout=60)
        assert tty is not None
        return tty

    @property
    def said(self) -> int:
        """How many lines the holder has said so far."""
        return len(self.machine.log("holder").splitlines())

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.machine.signal("holder", 15)
        self.machine.wait("holder")

    def kill(self) -> None:
        """SIGKILL."""
        self.machine.kill("holder")
        self.machine.wait("holder")

    def ports_in_use(self) -> int:
        """Of its virtual USB controller."""
        lines = self.machine.read(VHCI).decode().splitlines()[1:]
        return sum(line.split()[2] != "004" for line in lines)

    def echo(self, tty: str, text: str) -> None:
        """Let the board repeat a line.

        The gadget's u_serial may keep what comes right after a reset until more comes, so the line
        is said again where it has no answer.
        """
        for attempt in range(4):
            try:
                self.machine.talk(tty, text.encode() + b"\n", f": {text}\r\n", timeout=5)
            except AssertionError:
                if attempt == 3:
                    raise
            else:
                return
