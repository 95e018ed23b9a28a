"""Measures one virtual board through its tty, and checks that every byte is as it should be.

    python -m benchmarks.tty_meter echo TTY ROUNDS    # the board runs the firmware `echo`
    python -m benchmarks.tty_meter sink TTY BYTES     # ... `blast`: to the board
    python -m benchmarks.tty_meter blast TTY BYTES    # from the board

Prints seconds, as a list of JSON.
"""

import json
import os
import random
import sys
import time
import tty

from kernel.firmwares import pattern

MESSAGE_BYTES = 64
"""Of an echo: what fits into one packet of a full-speed device."""
_WARM_UP = 50
"""Echoes that are not counted."""


class WrongBytesError(RuntimeError):
    """What came is not what should have come."""


def _read(fd: int, size: int) -> bytes:
    came = bytearray()
    while len(came) < size:
        part = os.read(fd, size - len(came))
        if not part:
            raise WrongBytesError(f"the tty was hung up after {len(came)} of {size} bytes")
        came += part
    return bytes(came)


def _expect(fd: int, expected: bytes) -> None:
    if (came := _read(fd, len(expected))) != expected:
        raise WrongBytesError(f"{came[:80]!r}... came instead of {expected[:80]!r}...")


def _write(fd: int, data: bytes) -> None:
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[os.write(fd, unwritten) :]


def _echo(fd: int, rounds: int) -> list[float]:
    """Each from the writing of a message until all of it has come back."""
    seconds = []
    for _ in range(_WARM_UP + rounds):
        message = random.randbytes(MESSAGE_BYTES)
        start = time.perf_counter()
        os.write(fd, message)
        _expect(fd, message)
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP:]


def _sink(fd: int, size: int) -> list[float]:
    """From the first byte's writing until the board says that it has had the last one."""
    data = random.randbytes(size)
    start = time.perf_counter()
    _write(fd, b"sink %d\n" % size + data)
    _expect(fd, b"sank %d, sum %d\r\n" % (size, sum(data)))
    return [time.perf_counter() - start]


def _blast(fd: int, size: int) -> list[float]:
    """From the asking until the last byte has come."""
    start = time.perf_counter()
    _write(fd, b"blast %d\n" % size)
    came = _read(fd, size)
    seconds = time.perf_counter() - start
    if came != pattern(size):
        raise WrongBytesError(f"of {size} bytes some are not as they should be")
    return [seconds]


_MEASUREMENTS = {"echo": _echo, "sink": _sink, "blast": _blast}


def main(what: str, path: str, amount: int) -> None:
    """Measure once."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    print(json.dumps(_MEASUREMENTS[what](fd, amount)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
