"""What systemd is told by the parts of a farm themselves."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Processes, script
from support.systemd import Manager

from icefarm_broker.mosquitto import Mosquitto


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_an_agent_says_how_its_boards_are(
    manager: Manager, processes: Processes, mosquitto: Mosquitto
) -> None:
    agent = ("--name", "bench", "--virtual-boards", "2", "--virtual-speed", "20")
    command = (script("icefarm-agent"), *agent, "--broker", mosquitto.url)
    with manager.service(*command, watchdog=1) as process:
        assert manager.hears() == ["READY=1"]
        manager.hears_of("STATUS=boards: 2 available; connected to the broker")
        manager.hears_of("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.hears_of("STOPPING=1")
        assert process.wait(20) == 0


def test_control_says_what_it_cannot_do(
    manager: Manager, mosquitto: Mosquitto, database_url: str
) -> None:
    command = (script("icefarm-control"), "--database", database_url, "--no-web")
    with manager.service(*command, "--broker", mosquitto.url, watchdog=1) as process:
        assert manager.hears() == ["READY=1"]
        manager.hears_of("STATUS=ready; leads")
        mosquitto.stop()
        while not (said := " ".join(manager.hears())).startswith(
            "STATUS=not ready (leads): broker"
        ):
            assert "STATUS" not in said
        manager.hears_of("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.hears_of("STOPPING=1")
        assert process.wait(20) == 0
