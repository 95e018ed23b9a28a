import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.recorder import Recorder
from support.waiting import until, until_async

from icefarm_broker import (
    BrokerAddress,
    BrokerUnreachableError,
    Connected,
    Connection,
    Disconnected,
    Happening,
    Invalid,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
    PresenceMessages,
    PublishRefusedError,
    Received,
    Synced,
)
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_broker.mqtt import MqttClient
from icefarm_schemas import (
    MAX_PAYLOAD_BYTES,
    AgentState,
    AgentStatus,
    DeviceState,
    DeviceStatus,
    Presence,
    SessionState,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    DeviceStateTopic,
    EvaluateTopic,
    RequestTopic,
    SessionStateTopic,
)

ONLINE, OFFLINE = AgentState(status=AgentStatus.ONLINE), AgentState(status=AgentStatus.OFFLINE)


def agent_connection(url: str, name: str, *subscriptions: str, **options: object) -> Connection:
    return Connection(
        BrokerAddress.parse(url),
        name,
        PresenceMessages(AgentStateTopic(name), ONLINE, OFFLINE),
        subscriptions=subscriptions,
        **options,  # type: ignore[arg-type]
    )


def a_device(detail: str) -> DeviceState:
    return DeviceState(
        status=DeviceStatus.AVAILABLE,
        product="p",
        behaviours=(),
        detail=detail,
        since=utc_now(),
    )


async def following(connection: Connection, kind: type[Happening]) -> Happening:
    """The next happening of a kind."""
    async with asyncio.timeout(30):
        async for happening in connection:
            if isinstance(happening, kind):
                return happening
    raise AssertionError("the connection ended")


@asynccontextmanager
async def consumed(connection: Connection) -> AsyncIterator[list[Happening]]:
    """Everything that happens while the block runs, as it happens."""
    happenings: list[Happening] = []

    async def consume() -> None:
        async for happening in connection:
            happenings.append(happening)

    task = asyncio.create_task(consume())
    try:
        yield happenings
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_retained_states_come_between_connected_and_synced(mosquitto: Mosquitto) -> None:
    async with agent_connection(mosquitto.url, "a") as first:
        for number in range(700):
            await first.publish(DeviceStateTopic("a", f"d{number}"), a_device("x"))
    async with agent_connection(mosquitto.url, "b", DeviceStateTopic.pattern()) as second:
        seen: list[Happening] = []
        async for happening in second:
            seen.append(happening)
            if isinstance(happening, Synced):
                break
    assert isinstance(seen[0], Connected)
    devices = {h.topic for h in seen if isinstance(h, Received)}
    assert devices == {DeviceStateTopic("a", f"d{number}") for number in range(700)}


async def test_a_birth_and_a_will_tell_of_presence(
    mosquitto: Mosquitto, recorder: Recorder
) -> None:
    connection = agent_connection(mosquitto.url, "a")
    await connection.__aenter__()
    until(lambda: [r.message for r in recorder.of(AgentStateTopic)] == [ONLINE])
    # As a process that dies: its socket is closed and nothing is said.
    assert connection._keeper.now is not None
    connection._keeper.now._client._sock_close()
    until(lambda: OFFLINE in [r.message for r in recorder.of(AgentStateTopic)])
    await connection.__aexit__(None, None, None)


async def test_a_clean_end_publishes_no_will(mosquitto: Mosquitto, recorder: Recorder) -> None:
    async with agent_connection(mosquitto.url, "a"):
        pass
    async with agent_connection(mosquitto.url, "b"):
        pass
    # The second birth came after whatever the end of the first connection caused.
    until(lambda: recorder.of(AgentStateTopic, agent="b"))
    assert [r.message for r in recorder.of(AgentStateTopic, agent="a")] == [ONLINE]


async def test_who_cannot_say_farewell_leaves_his_will(
    mosquitto: Mosquitto, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = SessionStateTopic("ann", "s")
    presence = PresenceMessages(
        topic,
        SessionState(status=Presence.ONLINE),
        SessionState(status=Presence.OFFLINE),
        will_delay=1,
        farewell=b"",
    )

    async def fail(*_: object) -> None:
        raise PublishRefusedError("too much is under way")

    async with Connection(BrokerAddress.parse(mosquitto.url), "ann", presence):
        until(lambda: recorder.of(SessionStateTopic))
        monkeypatch.setattr(MqttClient, "publish_and_confirm", fail)
    until(
        lambda: (
            [r.message.status for r in recorder.of(SessionStateTopic)][-1:] == [Presence.OFFLINE]
        )
    )


async def test_a_farewell_does_not_wait_behind_all_else(
    mosquitto: Mosquitto, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broker that is slow to confirm it would publish the will after it.
    monkeypatch.setattr("icefarm_broker.connection._FAREWELL", 30)
    topic = SessionStateTopic("ann", "s")
    state = SessionState(status=Presence.ONLINE)
    presence = PresenceMessages(topic, state, state, farewell=b"")
    async with Connection(BrokerAddress.parse(mosquitto.url), "ann", presence) as connection:
        while not connection._slots.locked():
            await connection._slots.acquire()
    until(lambda: [r.message for r in recorder.of(SessionStateTopic)][-1:] == [None])


async def test_publishes_and_subscriptions_survive_a_restart_of_the_broker(
    mosquitto: Mosquitto,
) -> None:
    pattern = DeviceStateTopic.pattern()
    async with (
        agent_connection(mosquitto.url, "a") as publisher,
        agent_connection(mosquitto.url, "b", pattern) as subscriber,
        consumed(publisher),
    ):
        assert isinstance(await following(subscriber, Synced), Synced)
        mosquitto.kill()
        assert isinstance(await following(subscriber, Disconnected), Disconnected)
        publishing = asyncio.create_task(
            publisher.publish(DeviceStateTopic("a", "d"), a_device("while away"))
        )
        mosquitto.start()
        received = await following(subscriber, Received)
        assert isinstance(received, Received)
        assert received.message.detail == "while away"
        await publishing


async def test_reason_codes_become_errors(mosquitto: Mosquitto) -> None:
    async with agent_connection(mosquitto.url, "a") as connection:
        with pytest.raises(NobodyListensError, match="requests/c/s/reserve"):
            await connection.publish(RequestTopic("c", "s", "reserve"), b"{}")
        # A retained state needs nobody to listen.
        await connection.publish(AgentStateTopic("a"), ONLINE)


async def test_a_huge_payload_is_refused_and_the_connection_goes_on(mosquitto: Mosquitto) -> None:
    async with agent_connection(mosquitto.url, "a", EvaluateTopic.pattern()) as connection:
        topic = EvaluateTopic("r", "c", "s", "e")
        with pytest.raises(PublishRefusedError, match="4,194,305 bytes are too many"):
            await connection.publish(topic, bytes(MAX_PAYLOAD_BYTES + 1))
        await connection.publish(topic, bytes(100_000))
        received = await following(connection, Received)
        assert isinstance(received, Received)
        assert received.message == bytes(100_000)


async def test_what_the_contract_does_not_know_is_told_as_invalid(
    mosquitto: Mosquitto, recorder: Recorder
) -> None:
    recorder.expect_fault("")
    async with agent_connection(mosquitto.url, "a", "icefarm/v1/#") as connection:
        assert connection._keeper.now is not None
        await following(connection, Synced)
        paho = connection._keeper.now._client
        paho.publish("icefarm/v1/no/such/topic", b"x", qos=1)
        unknown = await following(connection, Invalid)
        paho.publish("icefarm/v1/agents/a/state", b"{broken", qos=1)
        broken = await following(connection, Invalid)
    assert isinstance(unknown, Invalid)
    assert unknown.topic is None
    assert "no topic like" in unknown.why
    assert isinstance(broken, Invalid)
    assert broken.topic == AgentStateTopic("a")
    assert "Invalid JSON" in broken.why


async def test_a_slow_consumer_holds_back_the_broker(mosquitto: Mosquitto) -> None:
    """Five times as many messages as may be unacknowledged: none is lost, few are in memory."""
    async with (
        agent_connection(mosquitto.url, "a") as publisher,
        agent_connection(mosquitto.url, "b", EvaluateTopic.pattern()) as subscriber,
        consumed(publisher),
    ):
        await following(subscriber, Synced)
        for number in range(2500):
            await publisher.publish(EvaluateTopic("r", "c", "s", f"{number}"), b"x")
        assert subscriber._happenings.qsize() <= 500
        seen: list[int] = []
        while len(seen) < 2500:
            received = await following(subscriber, Received)
            assert isinstance(received, Received)
            assert isinstance(received.topic, EvaluateTopic)
            seen.append(int(received.topic.evaluation))
    assert seen == list(range(2500))


async def test_two_processes_of_the_same_name_are_told_so(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        agent_connection(mosquitto.url, "a") as first,
        agent_connection(mosquitto.url, "a") as second,
        consumed(first),
        consumed(second),
    ):
        hint = "perhaps another process uses the same name"

        async def hinted() -> bool:
            return hint in caplog.text

        await until_async(hinted)


async def test_a_broker_that_is_stopped_while_it_is_connected_to_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(BrokerUnreachableError, match="the connection was cut at once"):
            async with agent_connection(f"mqtt://{host}:{port}", "a", patience=0.3):
                pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_no_broker_is_told_within_the_patience() -> None:
    # As long as it is bound, nobody else can listen there.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(BrokerUnreachableError, match="no broker answers at mqtt://127"):
            async with agent_connection(url, "a", patience=0.3):
                pass


async def test_roles_are_enforced_by_the_broker(tmp_path: Path) -> None:
    accounts = write_accounts(
        [
            Account("ann", "secret", Role.CLIENT),
            Account("bench", "other", Role.AGENT),
            Account("screen", "x", Role.OBSERVER),
        ],
        tmp_path,
    )
    with Mosquitto(tmp_path / "broker", free_port(), accounts) as broker:

        def as_user(login: str) -> BrokerAddress:
            return BrokerAddress.parse(broker.url.replace("//", f"//{login}@"))

        def session(login: str) -> Connection:
            topic = SessionStateTopic(login.split(":")[0], "s")
            online = SessionState(status=Presence.ONLINE)
            return Connection(
                as_user(login), login, PresenceMessages(topic, online, online), patience=1
            )

        for login in ("ann:wrong", "nobody:x"):
            with pytest.raises(LoginRefusedError, match="check the user name and password"):
                async with session(login):
                    pass
        with pytest.raises(LoginRefusedError, match="without a user"):
            async with agent_connection(broker.url, "a", patience=1):
                pass
        async with session("ann:secret") as ann:
            for forbidden in (
                RequestTopic("bob", "s", "reserve"),
                SessionStateTopic("bob", "s"),
                AgentStateTopic("bench"),
                EvaluateTopic("r", "bob", "s", "e"),
            ):
                with pytest.raises(NotAuthorisedError, match="does not allow ann to publish"):
                    await ann.publish(forbidden, b"{}")
            with pytest.raises(NobodyListensError):
                await ann.publish(RequestTopic("ann", "s", "reserve"), b"{}")
            with pytest.raises(NobodyListensError):
                await ann.publish(EvaluateTopic("r", "ann", "s", "e"), b"x")
            # An observer sees everything, and may change nothing.
            recorder = Recorder(str(as_user("screen:x")).replace("@", ":x@"))
            await ann.publish(EvaluateTopic("r", "ann", "s", "e"), b"x")
            until(lambda: recorder.of(EvaluateTopic))
            recorder.stop()


def test_passwords_are_hashed_and_private(tmp_path: Path) -> None:
    passwords, access = write_accounts([Account("ann", "secret", Role.CLIENT)], tmp_path)
    assert passwords.read_text().startswith("ann:$7$")
    assert "secret" not in passwords.read_text()
    assert passwords.stat().st_mode & 0o077 == 0
    assert "user ann\n" in access.read_text()


@pytest.mark.parametrize(("name", "password"), [("a:b", "x"), ("a/b", "x"), ("a", ""), ("a", "\n")])
def test_an_account_that_the_files_cannot_hold_is_refused(name: str, password: str) -> None:
    with pytest.raises(ValueError, match=r"name|password|colon"):
        Account(name, password, Role.CLIENT)
