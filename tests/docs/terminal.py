"""A terminal with a shell in it, in which lines are typed as a reader of the tutorial does."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import until

PATIENCE = 90.0
"""Seconds for one command."""
_SIZE = struct.pack("HHHH", 50, 100, 0, 0)
"""Lines and columns."""
# The prompt carries the last command's exit code, between two characters that nobody prints.
_PROMPT_TEXT = "\x1e$?\x1f$ "
_PROMPT = re.compile(r"\x1e(\d+)\x1f\$ \Z")
_CTRL_C = b"\x03"


def _take_the_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """Bash on a pseudo-terminal that can neither colour nor move its cursor."""

    def __init__(self, inside: list[str], directory: Path, environment: dict[str, str]) -> None:
        self._read, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, _SIZE)
        self._shell = subprocess.Popen(
            [*inside, "bash", "--noprofile", "--norc", "--noediting", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=directory,
            env={**environment, "PS1": _PROMPT_TEXT, "TERM": "dumb"},
            start_new_session=True,
            preexec_fn=_take_the_terminal,
        )
        os.close(terminal)
        self._printed = ""
        self._seen = 0
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        self._wait(lambda: self.exit_code is not None, "the shell's first prompt")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As when its window is closed: what still runs in it is hung up on."""
        self._closed.set()
        self._reader.join(PATIENCE)
        os.close(self._read)
        self._shell.wait(PATIENCE)

    def _follow(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while not self._closed.is_set():
            if not select.select([self._read], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._read, 65_536)
            except OSError:
                # What Linux says when the shell has ended.
                return
            with self._guard:
                self._printed = (self._printed + decoder.decode(data)).replace("\r\n", "\n")

    @property
    def exit_code(self) -> int | None:
        """That of the last command; None while one runs."""
        prompt = _PROMPT.search(self._printed)
        return int(prompt[1]) if prompt else None

    @property
    def output(self) -> str:
        """What the last command has printed since somebody looked, in whole lines.

        The white space at the ends of lines is not in it.
        """
        text, ended = _PROMPT.subn("", self._printed)
        whole = text if ended else text[: text.rfind("\n") + 1]
        return "".join(line.rstrip() + "\n" for line in whole.splitlines())[self._seen :]

    def type(self, line: str) -> None:
        """Type a command and return when the terminal shows it."""
        assert self.exit_code is not None, f"a command still runs: {self._printed}"
        self._forget_all()
        os.write(self._read, f"{line}\n".encode())
        self._wait(lambda: self._printed.startswith(f"{line}\n"), f"the echo of {line!r}")
        # What comes just now is the command's.
        with self._guard:
            self._printed = self._printed.removeprefix(f"{line}\n")

    def press_ctrl_c(self) -> None:
        """What is printed from now on is the output."""
        self._forget_all()
        os.write(self._read, _CTRL_C)

    def _forget_all(self) -> None:
        with self._guard:
            self._printed, self._seen = "", 0

    def wait_for_prompt(self) -> None:
        """Return when the command has ended."""
        self._wait(lambda: self.exit_code is not None, "the command's end")

    def wait_for(self, pattern: re.Pattern[str]) -> bool:
        """Wait until the output begins so, and look at it; or say that the command has ended."""
        self._wait(
            lambda: pattern.match(self.output) or self.exit_code is not None, pattern.pattern
        )
        found = pattern.match(self.output)
        self._seen += found.end() if found else 0
        return found is not None

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            until(condition, what, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._printed}") from None
