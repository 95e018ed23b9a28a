import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.recorder import Recorder
from support.waiting import until_async

from icefarm_broker import (
    BrokerAddress,
    Connection,
    PresenceMessages,
    Received,
    RetainedStates,
    Synced,
)
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import AgentState, AgentStatus, DeviceState, DeviceStatus, utc_now
from icefarm_schemas.topics import AgentStateTopic, DeviceStateTopic


def a_device(detail: str) -> DeviceState:
    return DeviceState(
        status=DeviceStatus.BROKEN, product="p", behaviours=(), detail=detail, since=utc_now()
    )


@asynccontextmanager
async def an_agent(url: str) -> AsyncIterator[RetainedStates]:
    """An agent's device states, followed for as long as the block runs."""
    state = AgentState(status=AgentStatus.ONLINE)
    connection = Connection(
        BrokerAddress.parse(url),
        "agent",
        PresenceMessages(AgentStateTopic("a"), state, state),
        snapshots=[DeviceStateTopic.pattern(agent="a")],
    )
    async with connection, asyncio.TaskGroup() as tasks:
        states = RetainedStates(connection, DeviceStateTopic)

        async def observe() -> None:
            async for happening in connection:
                states.observe(happening)

        running = [tasks.create_task(observe()), tasks.create_task(states.run())]
        yield states
        for task in running:
            task.cancel()


async def retained(mosquitto: Mosquitto) -> dict[str, str]:
    """The detail of each device that the broker retains, as another client finds it."""
    state = AgentState(status=AgentStatus.ONLINE)
    reader = Connection(
        BrokerAddress.parse(mosquitto.url),
        "reader",
        PresenceMessages(AgentStateTopic("reader"), state, state),
        subscriptions=[DeviceStateTopic.pattern(agent="a")],
    )
    found: dict[str, str] = {}
    async with reader:
        async for happening in reader:
            match happening:
                case Received(DeviceStateTopic(_, device), message, delivery) if delivery.retain:
                    found[device] = message.detail
                case Synced():
                    break
    return found


async def test_what_an_earlier_life_left_is_removed(
    mosquitto: Mosquitto, recorder: Recorder
) -> None:
    async with an_agent(mosquitto.url) as states:
        states.hold(DeviceStateTopic("a", "kept"), a_device("old"))
        states.hold(DeviceStateTopic("a", "gone"), a_device("old"))
        await until_async(lambda: _is(mosquitto, {"kept": "old", "gone": "old"}))
    async with an_agent(mosquitto.url) as states:
        states.hold(DeviceStateTopic("a", "kept"), a_device("new"))
        await until_async(lambda: _is(mosquitto, {"kept": "new"}))


async def test_a_broker_that_forgot_everything_is_told_again(mosquitto: Mosquitto) -> None:
    async with an_agent(mosquitto.url) as states:
        states.hold(DeviceStateTopic("a", "d"), a_device("x"))
        await until_async(lambda: _is(mosquitto, {"d": "x"}))
        mosquitto.kill()
        (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        await until_async(lambda: _is(mosquitto, {"d": "x"}))


async def test_the_latest_value_wins(mosquitto: Mosquitto, recorder: Recorder) -> None:
    async with an_agent(mosquitto.url) as states:
        topic = DeviceStateTopic("a", "d")
        for number in range(2000):
            states.hold(topic, a_device(f"{number}"))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await until_async(lambda: _is(mosquitto, {"d": "1999"}))
        states.hold(topic, a_device("almost"))
        states.remove(topic)
        await until_async(lambda: _is(mosquitto, {}))


async def _is(mosquitto: Mosquitto, expected: dict[str, str]) -> bool:
    return await retained(mosquitto) == expected
