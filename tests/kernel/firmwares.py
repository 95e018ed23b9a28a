"""What the firmwares of virtual boards say. A firmware is told what comes and answers with bytes.

Like pico-sdk's stdio, they end lines with CR and LF.
"""

import time
from typing import Protocol

BITSTREAM_BYTES = 104_090
_WATCHDOG = 5.0
"""Seconds for which a transfer may stall: more than a board's 2, for a machine that is busy."""
_SETTLED = 0.2
"""Seconds after which a host that has opened its tty has also set it up."""


class Firmware(Protocol):
    """One that runs, from the board's start to its end."""

    period: float | None
    """Seconds between calls of `due`."""

    def opened(self) -> bytes:
        """A terminal was opened."""

    def received(self, data: bytes) -> bytes:
        """Bytes came; the answer is kept until it could be sent."""

    def due(self) -> bytes:
        """Said unasked; what finds no room is lost."""


class _Lines:
    """Cuts what comes into lines."""

    def __init__(self) -> None:
        self._held = b""

    def cut(self, data: bytes) -> list[bytes]:
        *lines, self._held = (self._held + data).split(b"\n")
        return [line.rstrip(b"\r") for line in lines]


class Default:
    """Says what it is four times a second, and repeats each line that it is sent."""

    period: float | None = 0.25
    name = b"default firmware"

    def __init__(self) -> None:
        self._lines = _Lines()

    def opened(self) -> bytes:
        return b""

    def received(self, data: bytes) -> bytes:
        return b"".join(self.name + b": " + line + b"\r\n" for line in self._lines.cut(data))

    def due(self) -> bytes:
        return self.name + b"\r\n"


class Foreign(Default):
    """A holder's own: the board shows itself as another product while it runs."""

    name = b"foreign firmware"


class PulseCount:
    """Takes bitstreams; the pulses are `expected_pulses`, so that each byte counts."""

    period: float | None = 0.05

    def __init__(self) -> None:
        self._opened: float | None = None
        self._begin()

    def _begin(self) -> bytes:
        self._count = self._sum = 0
        return b"Waiting for bitstream transfer\r\n"

    def opened(self) -> bytes:
        # Not at once: until the host has made its tty raw, that echoes what it hears, and the
        # echo would count as the beginning of a bitstream.
        self._opened = time.monotonic()
        return b""

    def received(self, data: bytes) -> bytes:
        if not self._count:
            self._started = time.monotonic()
        self._last = time.monotonic()
        data, rest = data[: BITSTREAM_BYTES - self._count], data[BITSTREAM_BYTES - self._count :]
        self._count += len(data)
        self._sum += sum(data)
        if self._count < BITSTREAM_BYTES:
            return b""
        microseconds = int((self._last - self._started) * 1e6)
        said = (
            b"Received bitstream in %d us\r\nFlashing FPGA\r\npulses: %d\r\n"
            % (microseconds, self._sum % 100_000)
            + self._begin()
        )
        return said + (self.received(rest) if rest else b"")

    def due(self) -> bytes:
        now = time.monotonic()
        if not self._count:
            if self._opened is None or now - self._opened < _SETTLED:
                return b""
            self._opened = None
            return self._begin()
        self._opened = None
        if now - self._last < _WATCHDOG:
            return b""
        said = b"Watchdog timeout, %d bytes received of %d\r\n" % (self._count, BITSTREAM_BYTES)
        return said + self._begin()


class Echo:
    """Sends back every byte as it comes."""

    period: float | None = None

    def opened(self) -> bytes:
        return b""

    def received(self, data: bytes) -> bytes:
        return data

    def due(self) -> bytes:
        return b""


class Blast:
    """For throughput: `blast N` is answered with `pattern(N)`; the N bytes after `sink N` are
    swallowed, and then it says `sank N, sum S`."""

    period: float | None = None

    def __init__(self) -> None:
        self._lines = _Lines()
        self._size = self._left = self._sum = 0

    def opened(self) -> bytes:
        return b""

    def received(self, data: bytes) -> bytes:
        said = b""
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                self._sum += sum(part)
                if not self._left:
                    said += b"sank %d, sum %d\r\n" % (self._size, self._sum)
                continue
            part, end, data = data.partition(b"\n")
            for line in self._lines.cut(part + end):
                command, _, number = line.partition(b" ")
                if command == b"blast":
                    said += pattern(int(number))
                elif command == b"sink":
                    self._size = self._left = int(number)
                    self._sum = 0
                else:
                    said += b"blast N or sink N, not " + line + b"\r\n"
        return said

    def due(self) -> bytes:
        return b""


class Silent:
    """Takes everything and never says a word."""

    period: float | None = None

    def opened(self) -> bytes:
        return b""

    def received(self, data: bytes) -> bytes:
        return b""

    def due(self) -> bytes:
        return b""


FIRMWARES: dict[str, type[Firmware]] = {
    "default": Default,
    "pulsecount": PulseCount,
    "echo": Echo,
    "blast": Blast,
    "silent": Silent,
    # It differs from `default` in that the 1200-baud touch does nothing.
    "stuck": Default,
    "foreign": Foreign,
}


def pattern(size: int) -> bytes:
    """What `blast` sends: a cycle of 251 bytes, so that no loss of a packet goes unseen."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def expected_pulses(bitstream: bytes) -> int:
    """What `pulsecount` answers to a bitstream."""
    return sum(bitstream) % 100_000
