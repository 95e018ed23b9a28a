"""A program on a terminal of its own, whose last picture can be read."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_HOME = "\x1b[H"
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """Runs a command on a terminal of a size, for a `with` block."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], height: int, width: int
    ) -> None:
        self._command = command
        self._environment = {k: v for k, v in environment.items() if k != "COLUMNS"}
        self._environment["TERM"] = "xterm-256color"
        self._size = struct.pack("HHHH", height, width, 0, 0)
        self.output = ""

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, self._size)
        self.process = subprocess.Popen(
            self._command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return  # Nobody has the other side any more.
            self.output += data.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    @property
    def lines(self) -> list[str]:
        """The last whole picture, without its colours."""
        pictures = self.output.split(_HOME)
        last = pictures[-2] if len(pictures) > 2 else ""
        return [line.rstrip() for line in _CODES.sub("", last).split("\r\n")]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)
