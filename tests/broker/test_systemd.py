"""What systemd is told of a service, and that a loop that hangs does not feed the watchdog."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icefarm_broker import systemd

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys, time
from icefarm_broker.service import run_service

loops = 0

async def main():
    global loops
    # Whoever starts a process from here must not speak in its name.
    import os
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    while True:
        await asyncio.sleep(0.01)
        loops += 1
        if os.path.exists(sys.argv[1]):
            time.sleep(600)

sys.exit(run_service(main, status=lambda: "at work" if loops > 5 else "starting"))
"""


class Manager:
    """Listens as systemd does, and starts one service."""

    def __init__(self, address: str, hangs: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._address, self._hangs = address, hangs

    @contextmanager
    def service(self, watchdog: float) -> Iterator["subprocess.Popen[bytes]"]:
        environment = {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(int(watchdog * 1e6))}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self._hangs], env={**os.environ, **environment}
        )
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
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else "@" + path
    manager = Manager(address, tmp_path / "hangs")
    yield manager
    manager.close()


def test_a_service_tells_how_it_is_from_its_start_to_its_end(manager: Manager) -> None:
    with manager.service(watchdog=0.4) as process:
        assert manager.hears() == ["READY=1"]
        assert manager.hears() == ["STATUS=starting", "WATCHDOG=1"]
        manager.hears_of("STATUS=at work")
        assert manager.hears() == ["WATCHDOG=1"]
        process.send_signal(signal.SIGTERM)
        manager.hears_of("STOPPING=1")
        assert process.wait(10) == 0


def test_a_loop_that_hangs_does_not_feed_the_watchdog(manager: Manager, tmp_path: Path) -> None:
    with manager.service(watchdog=0.4) as process:
        manager.hears_of("WATCHDOG=1")
        (tmp_path / "hangs").touch()
        assert manager.hears_no_more()
        assert process.poll() is None, "it lives, and only systemd knows that it is of no use"


@pytest.mark.parametrize("part", ["agent", "control"])
def test_the_units_use_what_the_parts_tell(part: str) -> None:
    unit = (ROOT / f"deploy/systemd/icefarm-{part}.service").read_text().splitlines()
    assert "Type=notify" in unit
    [watchdog] = [line for line in unit if line.startswith("WatchdogSec=")]
    assert int(watchdog.partition("=")[2]) >= 4 * systemd._MOST_PAUSE, "it is fed in time"
