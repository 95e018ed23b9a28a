"""Stands for systemd: starts a service and hears what it has to say of itself (sd_notify(3))."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class Manager:
    """Listens as systemd does, and starts one service."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._address = address

    @contextmanager
    def service(self, *command: str, watchdog: float) -> Iterator["subprocess.Popen[bytes]"]:
        """A process that is killed at the end of the block; `watchdog` in seconds."""
        environment = {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(int(watchdog * 1e6))}
        process = subprocess.Popen(command, env={**os.environ, **environment})
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def hears(self, timeout: float = 20) -> list[str]:
        """The next datagram's lines.

        Raises:
            TimeoutError: none came in time.
        """
        self._socket.settimeout(timeout)
        return self._socket.recv(4096).decode().split("\n")

    def hears_of(self, fact: str) -> None:
        """Wait until that is told, whatever else is meanwhile."""
        while fact not in self.hears():
            continue

    def hears_no_more(self) -> bool:
        """Whether it falls silent, after what it has said already."""
        for _ in range(20):
            try:
                self.hears(timeout=1.5)
            except TimeoutError:
                return True
        return False

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
