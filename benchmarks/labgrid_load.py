"""A process that makes load: clients of labgrid, run by the Python that labgrid is installed for.

    python -m benchmarks.labgrid_load COORDINATOR prepare PLACES EXPORTER
    python -m benchmarks.labgrid_load COORDINATOR client|calls CLIENTS FIRST_PLACE

`client` does what `labgrid-client acquire` and `release` do, over a connection that stays: it
follows all places and resources, and after each call waits until the coordinator has sent it all
that came before (`sync`). `calls` leaves out both, which labgrid's own client never does: it is
the fastest that labgrid's coordinator can be asked.
"""

import asyncio
import sys
import time

import grpc
from labgrid.remote.client import ClientSession
from labgrid.remote.generated import labgrid_coordinator_pb2 as messages
from labgrid.remote.generated import labgrid_coordinator_pb2_grpc as calls
from labgrid.util import labgrid_version

from benchmarks.cycling import Cycler, ready

_RESOURCES_APPEAR = 30.0
"""Seconds within which the exporter has told the coordinator of all its resources."""


def _own_channel(address: str) -> grpc.aio.Channel:
    # Channels of one process would share a connection, by which the coordinator tells clients.
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def _session(address: str) -> ClientSession:
    """labgrid's own client session, on a connection of its own."""
    session = ClientSession(address, asyncio.get_running_loop())
    await session.close()
    session.channel = _own_channel(address)
    session.stub = calls.CoordinatorStub(session.channel)
    await session.start()
    return session


class OwnClient:
    """A client as labgrid's own is."""

    def __init__(self, session: ClientSession, place: str) -> None:
        self._session, self._place = session, place

    async def acquire(self) -> None:
        """As `ClientSession._acquire_place`, without its looking for mistakes of the user's."""
        await self._session.stub.AcquirePlace(messages.AcquirePlaceRequest(placename=self._place))
        await self._session.sync_with_coordinator()

    async def release(self) -> None:
        """As `ClientSession._release_place`."""
        await self._session.stub.ReleasePlace(messages.ReleasePlaceRequest(placename=self._place))
        await self._session.sync_with_coordinator()

    async def close(self) -> None:
        """End the session."""
        await self._session.stop()
        await self._session.close()


class CallsOnly:
    """A client that only makes the two calls; the coordinator wants it to have a stream open."""

    def __init__(self, address: str, place: str) -> None:
        self._place = place
        self._channel = _own_channel(address)
        self._stub = calls.CoordinatorStub(self._channel)
        self._open = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def start(self) -> None:
        """Return when the coordinator knows the client."""
        await self._open.wait()

    async def _read(self) -> None:
        startup = messages.ClientInMessage()
        startup.startup.version = labgrid_version()
        startup.startup.name = f"bench/{self._place}"
        sync = messages.ClientInMessage()
        sync.sync.id = 1
        stream = self._stub.ClientStream()
        await stream.write(startup)
        await stream.write(sync)
        async for incoming in stream:
            if incoming.HasField("sync"):
                self._open.set()

    async def acquire(self) -> None:
        """One call."""
        await self._stub.AcquirePlace(messages.AcquirePlaceRequest(placename=self._place))

    async def release(self) -> None:
        """One call."""
        await self._stub.ReleasePlace(messages.ReleasePlaceRequest(placename=self._place))

    async def close(self) -> None:
        """End the stream and the connection."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._channel.close()


async def prepare(address: str, places: int, exporter: str) -> None:
    """Make places that match one resource each, and return when the resources are there."""
    session = await _session(address)
    for number in range(places):
        name = f"place-{number}"
        await session.stub.AddPlace(messages.AddPlaceRequest(name=name))
        pattern = f"{exporter}/board-{number}/*"
        await session.stub.AddPlaceMatch(
            messages.AddPlaceMatchRequest(placename=name, pattern=pattern)
        )
    deadline = time.monotonic() + _RESOURCES_APPEAR
    while len(session.resources.get(exporter, {})) < places:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{exporter} has {session.resources} after {_RESOURCES_APPEAR} s")
        await asyncio.sleep(0.05)
    await session.stop()
    await session.close()


async def load(address: str, mode: str, count: int, first: int) -> None:
    """Connect so many clients, let them work when told to, and tell what they have done."""
    clients: list[OwnClient | CallsOnly] = []
    for number in range(first, first + count):
        place = f"place-{number}"
        if mode == "client":
            clients.append(OwnClient(await _session(address), place))
        else:
            lean = CallsOnly(address, place)
            await lean.start()
            clients.append(lean)
    counts = await ready()
    cyclers: list[Cycler] = list(clients)
    await counts.run(cyclers, grpc.aio.AioRpcError)
    for client in clients:
        await client.close()
    counts.tell()


if __name__ == "__main__":
    _, where, what, number_of, last = sys.argv
    if what == "prepare":
        asyncio.run(prepare(where, int(number_of), last))
    else:
        asyncio.run(load(where, what, int(number_of), int(last)))
