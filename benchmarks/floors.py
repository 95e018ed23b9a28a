"""What no farm can be faster than: a message through the broker and back, and a durable commit."""

import asyncio
import statistics
import sys
import time

import psycopg

from benchmarks.echo import REQUESTS
from benchmarks.farm import Farm, Place, running_servers
from benchmarks.plain_connection import connect
from benchmarks.processes import running
from benchmarks.report import Figure
from icefarm_broker.packets import Delivery, Outgoing

_ROUNDS = 1000
_WARM_UP = 100
"""Rounds that are not counted."""


async def _request_and_reply(farm: Farm) -> list[float]:
    """Seconds of each request to another process, from its sending to its answer's coming."""
    async with running("echo", [sys.executable, "-m", "benchmarks.echo", farm.url], farm.logs) as e:
        await e.hear()
        return await _rounds(farm.url, REQUESTS, "floor/replies")


async def _rounds(url: str, to: str, back: str) -> list[float]:
    """Seconds from each sending of a message to one topic until one comes on another."""
    came = asyncio.Event()

    def deliver(delivery: Delivery) -> None:
        delivery.acknowledge()
        came.set()

    client = await connect(url, "floor", deliver)
    await client.subscribe_to([back])
    seconds = []
    for _ in range(_WARM_UP + _ROUNDS):
        came.clear()
        start = time.perf_counter()
        message = Outgoing(to, b"x" * 100, response_topic=back, correlation=b"0123456789abcdef")
        await client.publish_and_confirm(message)
        await came.wait()
        seconds.append(time.perf_counter() - start)
    await client.close()
    return seconds[_WARM_UP:]


async def _commits(database: str) -> list[float]:
    """Seconds of each smallest transaction that Postgres makes durable."""
    seconds = []
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS floor (n int)")
        for number in range(_WARM_UP + _ROUNDS):
            start = time.perf_counter()
            await connection.execute("INSERT INTO floor VALUES (%s)", [number])
            seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP:]


async def of_a_request(farm: Farm) -> float:
    """Seconds that a request to this farm cannot be faster than: asked, answered and committed."""
    request = statistics.median(await _request_and_reply(farm))
    return request + statistics.median(await _commits(farm.database))


async def measure(place: Place) -> list[Figure]:
    """All floors, in milliseconds."""
    async with running_servers(place, "floors") as farm:
        request = await _request_and_reply(farm)
        own = await _rounds(farm.url, "floor/own", "floor/own")
        commits = await _commits(farm.database)
    return [
        Figure("request_ms", "request and reply, two processes, p50", _ms(request), "ms"),
        Figure("round_trip_ms", "message to the broker and back, p50", _ms(own), "ms"),
        Figure("commit_ms", "Postgres commit, p50", _ms(commits), "ms"),
    ]


def _ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)
