"""What the broker sends comes in whatever pieces the network makes of it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_broker.happenings import Received
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import Presence, SessionState
from icefarm_schemas.topics import SessionStateTopic, StreamDownTopic

DOWN = StreamDownTopic("r", "board", "ann", "s1")
# On both sides of where a packet's length needs one byte more.
SIZES = (0, 1, 60, 80, 100, 120, 127, 128, 200, 16_000, 16_383, 16_384, 70_000)
IN_PIECES = 2000
"""Bytes of a connection that come in small pieces; the rest comes in larger ones."""


@asynccontextmanager
async def network(port: int, seed: int) -> AsyncIterator[str]:
    """A way to the broker on which what it sends is cut at random."""
    cutting = random.Random(seed)

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = 0
        while data := await reader.read(cutting.randint(1, 7 if total < IN_PIECES else 5000)):
            total += len(data)
            writer.write(data)
            await writer.drain()
            # Its receiver has a turn, and may find this piece alone.
            await asyncio.sleep(0)
        writer.close()

    joined: list[asyncio.Task[None] | None] = []

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined.append(asyncio.current_task())
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(there(reader, its_writer), back(its_reader, writer))
        await asyncio.gather(writer.wait_closed(), its_writer.wait_closed())

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*(task for task in joined if task is not None))


@pytest.mark.parametrize("seed", range(3))
async def test_all_arrives_however_it_is_cut(mosquitto: Mosquitto, seed: int) -> None:
    taken: list[bytes] = []
    states: list[SessionState] = []
    complete = asyncio.Event()
    online, gone = SessionState(status=Presence.ONLINE), SessionState(status=Presence.OFFLINE)

    async with network(mosquitto.port, seed) as url:
        presence = PresenceMessages(SessionStateTopic("ann", "s1"), online, gone)
        filters = [DOWN.build(), SessionStateTopic("bob", "s2").build()]
        async with Connection(
            BrokerAddress.parse(url), "ann", presence, subscriptions=filters
        ) as connection:
            connection.take_bytes(DOWN.build(), taken.append, lambda _: None)

            async def consume() -> None:
                async for happening in connection:
                    if isinstance(happening, Received):
                        assert isinstance(happening.message, SessionState)
                        states.append(happening.message)
                        if len(states) == len(SIZES):
                            complete.set()

            consumer = asyncio.create_task(consume())
            presence = PresenceMessages(SessionStateTopic("bob", "s1"), online, gone)
            async with Connection(BrokerAddress.parse(mosquitto.url), "bob", presence) as other:
                for size in SIZES:
                    other.send(DOWN.build(), bytes(size))
                    await other.publish(SessionStateTopic("bob", "s2"), online)
                async with asyncio.timeout(30):
                    await complete.wait()
            consumer.cancel()
    assert taken == [bytes(size) for size in SIZES]
    assert states == [online] * len(SIZES)
