"""What systemd is told of a service, and that a loop that hangs does not feed the watchdog."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.systemd import Manager

from icefarm_broker import systemd

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, os, sys, time
from icefarm_broker.service import run_service

loops = 0

async def main():
    global loops
    # Whoever starts a process from here must not speak in its name.
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    while True:
        await asyncio.sleep(0.01)
        loops += 1
        if os.path.exists(sys.argv[1]):
            time.sleep(600)

sys.exit(run_service(main, status=lambda: "at work" if loops > 5 else "starting"))
"""


def program(folder: Path) -> tuple[str, ...]:
    """Its loop hangs once there is a file named so."""
    return sys.executable, "-c", PROGRAM, str(folder / "hangs")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else "@" + path
    manager = Manager(address)
    yield manager
    manager.close()


def test_a_service_tells_how_it_is_from_its_start_to_its_end(
    manager: Manager, tmp_path: Path
) -> None:
    # It speaks each second. The kernel keeps 10 datagrams that are not heard yet; more are lost.
    with manager.service(*program(tmp_path), watchdog=2) as process:
        assert manager.hears() == ["READY=1"]
        assert manager.hears() == ["STATUS=starting", "WATCHDOG=1"]
        manager.hears_of("STATUS=at work")
        assert manager.hears() == ["WATCHDOG=1"]
        process.send_signal(signal.SIGTERM)
        manager.hears_of("STOPPING=1")
        assert process.wait(10) == 0


def test_a_loop_that_hangs_does_not_feed_the_watchdog(manager: Manager, tmp_path: Path) -> None:
    with manager.service(*program(tmp_path), watchdog=0.4) as process:
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
