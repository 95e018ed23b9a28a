"""Processes that are started again when they have been killed, as systemd would."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_SHORTEST_RESTART, _LONGEST_RESTART = 0.1, 2.0
_LOOK_AGAIN = 0.02
_STOP_TIMEOUT = 60.0
"""Seconds; a client ends its run first, and may wait for the boards of another one's before."""


@dataclass(frozen=True)
class Ended:
    """The end of a process: was it asked to, and what did it say from its start on."""

    part: str
    code: int
    asked: bool
    at: float
    said: str


class Part:
    """One part of the farm, in whichever process it lives just now."""

    def __init__(
        self, name: str, command: Callable[[], list[str]], log: Path, variables: Mapping[str, str]
    ) -> None:
        self.name, self._command, self.log = name, command, log
        self._environment = {**os.environ, **variables}
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._said_from = 0
        self._before_start: Callable[[], None] | None = None
        self._start_at = 0.0
        self.pids: list[int] = []
        """Of all its processes so far, each the first of a session of its own."""

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one."""
        with self._lock:
            return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start its process."""
        with self._lock:
            if self._before_start is not None:
                self._before_start()
                self._before_start = None
            self._said_from = self.log.stat().st_size if self.log.exists() else 0
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
            self._asked = False
            self.pids.append(self._process.pid)

    def look(self) -> Ended | None:
        """Its end, when its process has ended since the last look; started again later."""
        with self._lock:
            if self._process is None:
                if self._start_at and time.monotonic() >= self._start_at:
                    self._start_at = 0.0
                    self.start()
                return None
            code = self._process.poll()
            if code is None:
                return None
            self._process = None
            self._start_at = time.monotonic() + random.uniform(_SHORTEST_RESTART, _LONGEST_RESTART)
            said = self.log.read_bytes()[self._said_from :].decode(errors="replace")
            return Ended(self.name, code, self._asked, time.monotonic(), said)

    def kill(self, before_restart: Callable[[], None] | None = None) -> None:
        """SIGKILL; `before_restart` is called between its end and its next start."""
        self._end(signal.SIGKILL, before_restart)

    def terminate(self) -> None:
        """SIGTERM, in order."""
        self._end(signal.SIGTERM, None)

    def _end(self, number: signal.Signals, before_restart: Callable[[], None] | None) -> None:
        with self._lock:
            self._before_start = before_restart
            if self._process is not None and self._process.poll() is None:
                self._asked = True
                self._process.send_signal(number)

    def silence(self) -> Callable[[], None]:
        """SIGSTOP to it and the processes it has started, until the returned function is called."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return lambda: None
            try:
                parent = psutil.Process(self._process.pid)
                family = [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                return lambda: None
        for member in family:
            _signal(member, signal.SIGSTOP)

        def resume() -> None:
            for member in family:
                _signal(member, signal.SIGCONT)

        return resume

    def wait_stopped(self) -> str | None:
        """After `terminate`: what is wrong with how it ended, if anything is."""
        process = self._process
        if process is None:
            return None
        try:
            code = process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"{self.name} did not stop on SIGTERM within {_STOP_TIMEOUT:g} s"
        self._process = None
        return None if code == 0 else f"{self.name} stopped with exit code {code}"

    def left_behind(self) -> list[psutil.Process]:
        """Processes that it started and that outlived it."""
        return [process for process in psutil.process_iter() if _session(process) in self.pids]

    def memory(self) -> tuple[int, int] | None:
        """Its process id and how many bytes of memory it has."""
        pid = self.pid
        if pid is None:
            return None
        try:
            return pid, psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    # psutil looks whether it is still the same process, and not another one of its id.
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


class Supervisor:
    """Starts parts again, and remembers how each process ended."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = list(parts)
        self.ended: list[Ended] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _supervise(self) -> None:
        while not self._stop.wait(_LOOK_AGAIN):
            for part in self.parts:
                ended = part.look()
                if ended is not None:
                    self.ended.append(ended)

    def stop(self, parts: Iterable[Part]) -> list[str]:
        """End these parts in order; return what went wrong with that."""
        chosen = list(parts)
        self._pause()
        for part in chosen:
            part.terminate()
        faults = [fault for part in chosen if (fault := part.wait_stopped()) is not None]
        self.parts = [part for part in self.parts if part not in chosen]
        self._stop.clear()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._thread.start()
        return faults

    def _pause(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def end_all(self, parts: Iterable[Part]) -> None:
        """Kill whatever is left of these parts, and of what they started."""
        self._pause()
        for part in parts:
            part.kill()
            part.wait_stopped()
            for process in part.left_behind():
                _signal(process, signal.SIGKILL)
