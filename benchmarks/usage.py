"""CPU time and memory of processes with all their children, as the kernel counts them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of those that have ended."""
    total = 0.0
    for index, process in enumerate(_family(pid)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            # It ended while it was looked at; what it used is in its parent's count.
            continue
        total += times.user + times.system
        if index == 0:
            total += times.children_user + times.children_system
    return total


def resident_bytes(pid: int) -> int:
    """RSS of a process and its children; pages that they share count for each of them."""
    return sum(int(process.memory_info().rss) for process in _family(pid))


def postgres_pid(directory: Path) -> int:
    """The server that runs on a data directory."""
    # Its first line is the server's pid (PostgreSQL manual, "Database File Layout").
    return int((directory / "postmaster.pid").read_text().split()[0])


@dataclass
class CpuMeter:
    """CPU seconds of named processes between `start` and `stop`."""

    pids: Mapping[str, int]
    _before: dict[str, float] = field(default_factory=dict)
    _started: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    """By name of the process."""
    elapsed: float = 0.0

    def start(self) -> None:
        """Begin to count."""
        self._before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Take what was used since `start`."""
        self.elapsed = time.perf_counter() - self._started
        self.seconds = {
            name: cpu_seconds(pid) - self._before[name] for name, pid in self.pids.items()
        }
