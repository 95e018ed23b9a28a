"""Control as a process, and devices that are only reported: what is measured is control."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_schemas import AgentState, DeviceState, DeviceStatus, Presence, utc_now
from icefarm_schemas.topics import AgentStateTopic, DeviceStateTopic


@asynccontextmanager
async def running_farm(url: str, database: str, *, boards: int) -> AsyncIterator[None]:
    """Control and so many devices, until the block ends."""
    script = Path(sys.executable).parent / "icefarm-control"
    process = await asyncio.create_subprocess_exec(
        script, "--broker", url, "--database", database, stderr=asyncio.subprocess.DEVNULL
    )
    agent = Connection(
        BrokerAddress.parse(url),
        "agent",
        PresenceMessages(
            AgentStateTopic("bench"),
            AgentState(status=Presence.ONLINE),
            AgentState(status=Presence.OFFLINE),
        ),
    )
    state = DeviceState(
        status=DeviceStatus.AVAILABLE, product="p", behaviours=("pulsecount",), since=utc_now()
    )
    try:
        async with agent:
            for number in range(boards):
                await agent.publish(DeviceStateTopic("bench", f"board-{number}"), state)
            yield
    finally:
        process.terminate()
        await process.wait()
