"""What a reservation costs, and the round trip that it cannot be faster than."""

import asyncio
import statistics
import time

import psycopg

import icefarm
from icefarm_broker import BrokerAddress
from icefarm_broker.mqtt import Delivery, MqttClient, Outgoing
from icefarm_schemas import Operation, ReleaseRequest, ReserveRequest

ROUNDS = 500


async def round_trip(url: str) -> float:
    """Seconds for a message to the broker and back to this process with QoS 1, the median."""
    came = asyncio.Event()

    def deliver(delivery: Delivery) -> None:
        delivery.acknowledge()
        came.set()

    client = MqttClient(
        BrokerAddress.parse(url),
        "floor",
        lambda: None,
        deliver,
        will=Outgoing("floor/will", b""),
        clean_start=True,
        session_expiry=0,
        keepalive=60,
        receive_maximum=10,
    )
    await client.__aenter__()
    await client.subscribe_to(["floor/echo"])

    times = []
    for _ in range(ROUNDS):
        came.clear()
        start = time.perf_counter()
        await client.publish_and_confirm(Outgoing("floor/echo", b"x"))
        await came.wait()
        times.append(time.perf_counter() - start)
    await client.close()
    return statistics.median(times)


async def commit(database: str) -> float:
    """Seconds of the smallest transaction that Postgres makes durable, the median."""
    times = []
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE floor (n int)")
        for number in range(ROUNDS):
            start = time.perf_counter()
            await connection.execute("INSERT INTO floor VALUES (%s)", [number])
            times.append(time.perf_counter() - start)
    return statistics.median(times)


async def cycles(url: str) -> tuple[float, float]:
    """Of one client: seconds of a reserve (the median), and reserve + release cycles a second."""
    request = ReserveRequest(behaviour="pulsecount", count=1)
    reserves, both = [], []
    async with icefarm.AsyncClient(url, name="bench") as client:
        while not await client.is_served():
            await client.changed()
        for _ in range(ROUNDS):
            start = time.perf_counter()
            [held] = await client._request(Operation.RESERVE, request)
            reserves.append(time.perf_counter() - start)
            await client._request(
                Operation.RELEASE, ReleaseRequest(reservations=(held.reservation,))
            )
            both.append(time.perf_counter() - start)
    return statistics.median(reserves), len(both) / sum(both)
