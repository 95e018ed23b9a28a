"""The desk: the machine of somebody who has a board of the lab attached."""

import re
from dataclasses import dataclass

from support.waiting import until

import icefarm
from kernel import holder
from kernel.boards import Board
from kernel.machine import Machine
from kernel.scenario import Farm

VHCI = "/sys/devices/platform/vhci_hcd.0/status"
_TTY = re.compile(r"attached /dev/tty")
"""What a holder says; a bootloader has disks alone."""


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
        program = (holder.__file__, str(grace), *what)
        self.machine.start("holder", *program, env=self.farm.environment, warm="icefarm")

    def wait_for_tty(self, since: int = 0) -> str:
        """The tty, when it has been attached after the holder had said so many words."""

        def attached() -> str | None:
            log = self.machine.log("holder")
            assert self.machine.running("holder"), log
            ttys = [line.split()[1] for line in log.splitlines()[since:] if _TTY.match(line)]
            return ttys[-1] if ttys and _is_attached(log) else None

        tty = until(attached, "a tty at the desk", timeout=120)
        assert tty is not None
        return tty

    def wait_until_lost(self, since: int) -> None:
        """Until the holder has said that it lost its board, after so many words."""

        def lost() -> bool:
            lines = self.machine.log("holder").splitlines()[since:]
            return any(line.startswith("lost") for line in lines)

        until(lost, "the loss at the desk", timeout=60)

    @property
    def is_attached(self) -> bool:
        """Whether the holder has said so, and of no loss since."""
        return _is_attached(self.machine.log("holder"))

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

    def wait_until_detached(self) -> None:
        """Until the kernel has done with all that was plugged in, which is soon after its loss."""
        until(
            lambda: not self.ports_in_use() and not self.machine.glob("/dev/ttyACM*"),
            "nothing plugged in at the desk",
        )

    def echo(self, tty: str, text: str, answer: str | None = None) -> None:
        """Let the board repeat a line: the default firmware, where no other `answer` is given.

        The gadget's u_serial may keep what comes right after a reset until more comes, so the line
        is said again where it has no answer.
        """
        answer = answer or f": {text}\r\n"
        for attempt in range(4):
            try:
                self.machine.talk(tty, text.encode() + b"\n", answer, timeout=5)
            except AssertionError:
                if attempt == 3:
                    raise
            else:
                return


def _is_attached(log: str) -> bool:
    said = [line for line in log.splitlines() if line.startswith(("attached", "lost"))]
    return bool(said) and said[-1].startswith("attached")
