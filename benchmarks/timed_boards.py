"""A process that stands for boards: each takes exactly 50 ms for a bitstream, by its own clock.

    python -m benchmarks.timed_boards SOCKET

It speaks the protocol of the measuring firmware (icefarm_agent.behaviours.measuring) on real
pseudo-terminals, and is not the agent's process, as a board is not its Raspberry Pi: what the
agent does takes no time from a board, and a board no time from the agent, as long as there are
cores. A measurement begins with its bitstream's first byte and ends with its result, 50 ms later;
transfer, configuration and counting are all in there.
"""

import json
import os
import socket
import sys
import threading
import time
import tty
from dataclasses import asdict, dataclass, field

from icefarm_agent.behaviours.measuring import BITSTREAM_BYTES, FLASHING, PROMPT, RECEIVED
from icefarm_agent.behaviours.pulsecount import PulseCount
from icefarm_agent.board import DEFAULT_FIRMWARE, DEFAULT_FIRMWARE_GREETING

MEASUREMENT = 0.05
"""Seconds from the first byte of a bitstream to its result."""
NUMBER_BYTES = 4
"""At a bitstream's end: the number that its board answers, so that no answer can be another's."""


@dataclass
class Work:
    """What a board has done; times in seconds, those of day by time.perf_counter().

    `busy` is from each first byte to its result, which is more than 50 ms where bytes came late or
    this process was not given the processor. Each of the `gaps` is from a result to the first byte
    of the next bitstream: the board had nothing to do.
    """

    count: int = 0
    first_start: float = 0.0
    last_end: float = 0.0
    busy: float = 0.0
    gaps: list[float] = field(default_factory=list)


class TimedBoard:
    """One board: whatever firmware it is given runs in a thread until its console is closed."""

    def __init__(self) -> None:
        self.work = Work()
        self._over = threading.Event()

    def install(self, firmware: str) -> str:
        """Start a firmware on a new tty, and return its path."""
        master, slave = os.openpty()
        tty.setraw(slave)
        run = {DEFAULT_FIRMWARE: self._greet, PulseCount.firmware: self._count_pulses}[firmware]
        path = os.ttyname(slave)
        self._over.set()
        self._over = over = threading.Event()

        def until_over() -> None:
            try:
                run(master, slave, over)
            finally:
                os.close(master)

        threading.Thread(target=until_over, daemon=True).start()
        return path

    def _greet(self, console: int, slave: int, over: threading.Event) -> None:
        _say(console, DEFAULT_FIRMWARE_GREETING)
        # Until the next firmware is installed; who hears it may come late.
        over.wait()
        os.close(slave)

    def _count_pulses(self, console: int, slave: int, over: threading.Event) -> None:
        _say(console, PROMPT)
        bitstream = _read(console, BITSTREAM_BYTES)
        # The agent has it open, so its closing is now the end of the tty.
        os.close(slave)
        while bitstream:
            started = time.perf_counter()
            while bitstream and len(bitstream) < BITSTREAM_BYTES:
                bitstream += _read(console, BITSTREAM_BYTES - len(bitstream))
            if not bitstream:
                return
            time.sleep(max(started + MEASUREMENT - time.perf_counter(), 0))
            number = int.from_bytes(bitstream[-NUMBER_BYTES:], "big")
            _say(console, f"{RECEIVED} 0 us", FLASHING, f"{PulseCount.result} {number}", PROMPT)
            self._note(started, time.perf_counter())
            bitstream = _read(console, BITSTREAM_BYTES)

    def _note(self, started: float, ended: float) -> None:
        work = self.work
        if work.count:
            work.gaps.append(started - work.last_end)
        else:
            work.first_start = started
        work.last_end = ended
        work.busy += ended - started
        work.count += 1


def _read(console: int, most: int) -> bytearray:
    """Some bytes; none when the console has been closed."""
    try:
        return bytearray(os.read(console, most))
    except OSError:
        # Linux: EIO, as soon as nobody has the other side open.
        return bytearray()


def _say(console: int, *lines: str) -> None:
    os.write(console, "".join(f"{line}\n" for line in lines).encode())


def _serve(boards: dict[str, TimedBoard], connection: socket.socket) -> None:
    """An agent asks for firmwares: the board's name and the firmware's in, the tty's path out."""
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            name, firmware = line.split()
            board = boards.setdefault(name, TimedBoard())
            lines.write(board.install(firmware) + "\n")
            lines.flush()


def main(path: str) -> None:
    """Offer boards to whoever connects; tell what they have done for each line of input."""
    boards: dict[str, TimedBoard] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print(json.dumps("ready"), flush=True)

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_serve, args=(boards, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        for _ in sys.stdin:
            works = {name: asdict(board.work) for name, board in boards.items()}
            print(json.dumps(works), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
