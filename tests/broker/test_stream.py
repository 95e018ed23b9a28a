"""Streams over a real Mosquitto, between two connections as a client and an agent have them."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from support.waiting import until_async

from icefarm_broker import (
    BrokerAddress,
    Connection,
    PresenceMessages,
    Stream,
    StreamLostError,
)
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import Frame, FrameError, Presence, SessionState, stream_tag
from icefarm_schemas.streams import MAX_DATA, WINDOW
from icefarm_schemas.topics import SessionStateTopic, StreamDownTopic, StreamUpTopic

UP = StreamUpTopic("r", "board", "ann", "s1")
DOWN = StreamDownTopic("r", "board", "ann", "s1")
ID = "00c0ffee"


@dataclass
class Side:
    """One side: its stream, and what the device or the program at its end has."""

    connection: Connection
    stream: Stream
    end: socket.socket
    running: asyncio.Task[None]


@asynccontextmanager
async def connected(url: str, name: str, listens: str) -> AsyncIterator[Connection]:
    here, gone = SessionState(status=Presence.ONLINE), SessionState(status=Presence.OFFLINE)
    connection = Connection(
        BrokerAddress.parse(url),
        name,
        PresenceMessages(SessionStateTopic(name, "s1"), here, gone),
        subscriptions=[listens],
    )
    async with connection:

        async def consume() -> None:
            async for _ in connection:
                await asyncio.sleep(0)

        consumer = asyncio.create_task(consume())
        yield connection
        consumer.cancel()


@asynccontextmanager
async def both_sides(url: str) -> AsyncIterator[tuple[Side, Side]]:
    async with (
        connected(url, "client", DOWN.build()) as one,
        connected(url, "agent", UP.build()) as other,
    ):
        sides = []
        for connection, sends, receives in ((one, UP, DOWN), (other, DOWN, UP)):
            inner, end = socket.socketpair()
            end.setblocking(False)
            stream = Stream(
                connection, ID, sends, receives, inner.detach(), speaks_first=connection is one
            )
            running = asyncio.create_task(stream.run())
            sides.append(Side(connection, stream, end, running))
        yield sides[0], sides[1]
        for side in sides:
            side.running.cancel()
            side.end.close()
        await asyncio.gather(*(side.running for side in sides), return_exceptions=True)


async def receive(end: socket.socket, count: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(30):
        while len(data) < count:
            data += await loop.sock_recv(end, count - len(data))
    return bytes(data)


async def first_frame(side: Side) -> None:
    async def came() -> bool:
        return side.stream._frames_received > 0

    await until_async(came, "the first frame")


async def test_bytes_come_whole_and_in_order_both_ways(mosquitto: Mosquitto) -> None:
    loop = asyncio.get_running_loop()
    data = random.Random(1).randbytes(3 * WINDOW + 12_345)
    async with both_sides(mosquitto.url) as (client, agent):
        sending = [
            asyncio.create_task(loop.sock_sendall(client.end, data)),
            asyncio.create_task(loop.sock_sendall(agent.end, data[::-1])),
        ]
        assert await receive(agent.end, len(data)) == data
        assert await receive(client.end, len(data)) == data[::-1]
        await asyncio.gather(*sending)


async def test_a_receiver_that_does_not_read_holds_back_the_sender(mosquitto: Mosquitto) -> None:
    loop = asyncio.get_running_loop()
    data = random.Random(2).randbytes(8 * WINDOW)
    async with both_sides(mosquitto.url) as (client, agent):
        sending = asyncio.create_task(loop.sock_sendall(client.end, data))
        # When nothing more is taken from the sender, all that may be on the way is.
        before = -1
        while before != client.stream._sent or before == 0:
            before = client.stream._sent
            await asyncio.sleep(0.2)
        assert not sending.done()
        # What the kernel's buffers hold is consumed; not more than a window is beyond that.
        assert before - agent.stream._consumed <= WINDOW
        assert await receive(agent.end, len(data)) == data
        await sending


async def test_nothing_is_sent_to_a_client_that_is_not_ready_yet(mosquitto: Mosquitto) -> None:
    inner, end = socket.socketpair()
    with end:
        end.sendall(b"before anybody listens")
        async with (
            connected(mosquitto.url, "client", DOWN.build()) as one,
            connected(mosquitto.url, "agent", UP.build()) as other,
        ):
            agent = Stream(other, ID, DOWN, UP, inner.detach(), speaks_first=False)
            running = asyncio.create_task(agent.run())
            # A client that opens late: its subscription is there, its stream is not.
            await asyncio.sleep(0.2)
            mine, local = socket.socketpair()
            local.setblocking(False)
            client = asyncio.create_task(Stream(one, ID, UP, DOWN, mine.detach()).run())
            assert await receive(local, 22) == b"before anybody listens"
            for task in (running, client):
                task.cancel()
            await asyncio.gather(running, client, return_exceptions=True)
            local.close()


async def test_the_end_of_one_side_ends_its_run(mosquitto: Mosquitto) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        client.end.sendall(b"last words")
        client.end.close()
        async with asyncio.timeout(10):
            await client.running
        assert await receive(agent.end, 10) == b"last words"


async def test_a_lost_frame_ends_the_stream_with_an_error(mosquitto: Mosquitto) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        client.connection.send(UP.build(), Frame(stream_tag(ID), 7, 0, b"eighth").pack())
        with pytest.raises(StreamLostError, match="frame 7 came instead of"):
            async with asyncio.timeout(10):
                await agent.running
        assert agent.end.recv(10) == b""


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"short", "a frame has 16 to"),
        (b"x" * (16 + MAX_DATA + 1), "a frame has 16 to"),
        (Frame(stream_tag(ID), 1, 1, b"").pack(), "credit"),
    ],
)
async def test_what_is_no_frame_ends_the_stream(
    mosquitto: Mosquitto, payload: bytes, why: str
) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        await first_frame(agent)
        client.connection.send(UP.build(), payload)
        with pytest.raises(StreamLostError, match=why):
            async with asyncio.timeout(10):
                await agent.running


async def test_a_sender_that_ignores_its_credit_is_cut_off(mosquitto: Mosquitto) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        await first_frame(agent)
        for number in range(1, 40):  # Nobody reads at the agent's end.
            frame = Frame(stream_tag(ID), number, 0, bytes(MAX_DATA))
            client.connection.send(UP.build(), frame.pack())
        with pytest.raises(StreamLostError, match="credit"):
            async with asyncio.timeout(10):
                await agent.running


async def test_frames_of_an_earlier_stream_are_passed_over(mosquitto: Mosquitto) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        client.connection.send(UP.build(), Frame(stream_tag("0badcafe"), 7, 0, b"old").pack())
        client.end.sendall(b"new")
        assert await receive(agent.end, 3) == b"new"


async def test_the_loss_of_the_connection_ends_the_stream(mosquitto: Mosquitto) -> None:
    async with both_sides(mosquitto.url) as (client, agent):
        mosquitto.stop()
        for side in (client, agent):
            with pytest.raises(StreamLostError, match="connection to the broker was lost"):
                async with asyncio.timeout(10):
                    await side.running


async def test_a_tty_that_hangs_up_ends_the_stream(mosquitto: Mosquitto) -> None:
    master, slave = os.openpty()
    async with connected(mosquitto.url, "client", DOWN.build()) as connection:
        stream = Stream(connection, ID, UP, DOWN, master)
        running = asyncio.create_task(stream.run())
        os.close(slave)
        async with asyncio.timeout(10):
            await running


@pytest.mark.parametrize("name", ["", "zz", "00c0ffee00", "00 c0 ff", "0xc0ffee"])
def test_an_id_that_is_no_tag_is_refused(name: str) -> None:
    with pytest.raises(FrameError, match="eight hexadecimal digits"):
        stream_tag(name)


def test_numbers_start_again_after_four_thousand_million() -> None:
    frame = Frame.unpack(Frame(stream_tag(ID), (1 << 32) + 5, 0, b"x").pack())
    assert frame.number == 5
    assert frame.follows((1 << 32) + 5)


async def test_what_may_wait_goes_with_what_follows(mosquitto: Mosquitto) -> None:
    inner, end = socket.socketpair()
    frames: list[Frame] = []
    async with connected(mosquitto.url, "agent", UP.build()) as agent:
        topic = UP.build()
        agent.take_bytes(
            topic, lambda payload: frames.append(Frame.unpack(payload)), lambda why: None
        )
        stream = Stream(agent, ID, UP, DOWN, inner.detach(), may_wait=b"done".__eq__)
        running = asyncio.create_task(stream.run())

        async def came(data: bytes) -> bool:
            return b"".join(frame.data for frame in frames) == data

        # Alone, it is not held for long.
        end.sendall(b"done")
        await until_async(lambda: came(b"done"))
        for words in (b"done", b" and more"):
            end.sendall(words)
            await asyncio.sleep(0)
        await until_async(lambda: came(b"donedone and more"))
        running.cancel()
        await asyncio.wait([running])
        end.close()
