"""A farm of four fast virtual boards, or control and an agent of the test's own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.processes import Processes
from support.recorder import Recorder
from support.stream_agent import StreamAgent
from support.waiting import until_async

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import ControlState, Presence
from icefarm_schemas.topics import ControlStateTopic


@pytest.fixture
def farm(processes: Processes) -> Processes:
    """Started, with all boards available."""
    processes.serve(boards=4)
    return processes


@pytest_asyncio.fixture
async def agent(
    processes: Processes, recorder: Recorder, mosquitto: Mosquitto
) -> AsyncIterator[StreamAgent]:
    """With the boards a and b, and control to give them away."""
    processes.control()
    async with StreamAgent(mosquitto.url, boards=("a", "b")) as agent:

        async def served() -> bool:
            states = [r.message for r in recorder.of(ControlStateTopic)]
            last = states[-1] if states else None
            return isinstance(last, ControlState) and last.status is Presence.ONLINE

        await until_async(served)
        async with icefarm.AsyncClient(mosquitto.url, name="watcher") as client:
            await client.wait_until_available(2, behaviour="serial", timeout=30)
        yield agent
