"""A process that makes load: clients of iCEFARM, each with a session of its own.

python -m benchmarks.icefarm_load BROKER CLIENTS
"""

import asyncio
import sys
from contextlib import AsyncExitStack

import icefarm
from benchmarks.cycling import ready
from benchmarks.requesting import release, reserve, until_served
from icefarm_schemas import ReservationState


class Session:
    """A client, and the reservation that it holds."""

    def __init__(self, client: icefarm.AsyncClient) -> None:
        self._client = client
        self._held: ReservationState | None = None

    async def acquire(self) -> None:
        """Reserve one board, any."""
        self._held = await reserve(self._client)

    async def release(self) -> None:
        """Give it back."""
        assert self._held is not None
        await release(self._client, self._held)


async def main(url: str, count: int) -> None:
    """Connect so many clients, let them work when told to, and tell what they have done."""
    async with AsyncExitStack() as stack:
        sessions = []
        for _ in range(count):
            client = await stack.enter_async_context(icefarm.AsyncClient(url, name="bench"))
            await until_served(client)
            sessions.append(Session(client))
        counts = await ready()
        await counts.run(sessions, icefarm.FarmError)
    counts.tell()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
