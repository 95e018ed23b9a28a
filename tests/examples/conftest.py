"""A small farm of fast virtual boards, and the examples as programs that use it."""

import subprocess
import sys

import pytest
from examples.running import EXAMPLES, RunExample
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto


@pytest.fixture
def farm(processes: Processes, mosquitto: Mosquitto) -> Processes:
    """Two boards, both available."""
    processes.control()
    processes.agent("bench", boards=2)
    with icefarm.Client(mosquitto.url, name="watcher") as client:
        until(
            lambda: (
                client.is_served()
                and [board.status for board in client.boards()] == ["available"] * 2
            )
        )
    return processes


@pytest.fixture
def run_example(farm: Processes) -> RunExample:
    """As a user types it, in a shell that knows the farm."""

    def run(example: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / example), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=farm.environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run
