"""Keys that are pressed while a screen is shown."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 64


@contextmanager
def pressed() -> Iterator[asyncio.Queue[bytes]]:
    """What is typed, key by key and without being shown; nothing where there is no terminal."""
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    try:
        import termios  # There is none on Windows, where Ctrl-C ends a screen.
        import tty
    except ImportError:
        yield keys
        return
    if not sys.stdin.isatty():
        yield keys
        return
    descriptor = sys.stdin.fileno()
    loop = asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(descriptor, _MOST)
        if not typed:
            loop.remove_reader(descriptor)
        keys.put_nowait(typed)

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield keys
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
