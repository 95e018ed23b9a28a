"""A farm of control and an agent with four virtual boards, twenty times faster than real ones."""

import pytest
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto


@pytest.fixture
def farm(processes: Processes, mosquitto: Mosquitto) -> Processes:
    """Started, with all boards available."""
    processes.control()
    processes.agent("bench", boards=4)
    with icefarm.Client(mosquitto.url, name="watcher") as client:
        until(
            lambda: (
                client.is_served()
                and [board.status for board in client.boards()] == ["available"] * 4
            )
        )
    return processes
