"""Log lines of a farm's parts: each says whose it is, and who may read them over the broker."""

import json
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support.processes import Processes, script, wait_for_boards
from support.waiting import until

import icefarm
from icefarm_broker import BrokerAddress, Connection, NotAuthorisedError, PresenceMessages
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import AgentState, AgentStatus, LogLevel, LogLine, utc_now
from icefarm_schemas.topics import AgentStateTopic, LogTopic


def lines(processes: Processes, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in processes.output(name).splitlines()]


def test_what_a_line_is_about_can_be_searched_for(
    processes: Processes, mosquitto: Mosquitto, database_url: str
) -> None:
    json_lines = ("--log-format", "json")
    control = (script("icefarm-control"), "--database", database_url, "--no-web")
    processes.start("control", *control, *json_lines)
    agent = (script("icefarm-agent"), "--name", "bench", "--virtual-boards", "1")
    processes.start("agent", *agent, "--virtual-speed", "20", *json_lines)
    wait_for_boards(mosquitto.url, 1)
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(behaviour="serial", wait=30) as held,
        held.console() as console,
    ):
        console.readline(timeout=10)

    def about(part: str) -> list[dict[str, Any]]:
        return [line for line in lines(processes, part) if line.get("reservation") == held.id]

    until(lambda: about("control") and "ended" in about("control")[-1]["text"])
    for line in about("control"):
        assert (line["part"], line["client"]) == ("control", "ann")
    assert {name for line in about("control") for name in line["devices"]} == {"bench-1"}
    until(lambda: about("agent"))
    for line in about("agent"):
        assert (line["part"], line["agent"], line["device"]) == ("agent", "bench", "bench-1")
    for part in ("control", "agent"):
        assert all(
            {"at", "level", "part", "text"} <= line.keys() for line in lines(processes, part)
        )


class Reader:
    """Somebody who asks the broker for all logs."""

    def __init__(self, broker: Mosquitto, user: str) -> None:
        self.read: list[bytes] = []
        self.knows: list[int] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.username_pw_set(user, user)
        self._client.on_message = lambda _, __, message: self.read.append(bytes(message.payload))
        self._client.on_subscribe = lambda *_: self.knows.append(1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe(LogTopic.pattern())
        until(lambda: self.knows)

    def has_read(self) -> bool:
        return bool(self.read)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def test_logs_are_for_those_who_look_after_the_farm(tmp_path: Path) -> None:
    roles = {
        "control": Role.CONTROL,
        "bench": Role.AGENT,
        "ann": Role.CLIENT,
        "boss": Role.OPERATOR,
        "screen": Role.OBSERVER,
    }
    accounts = write_accounts([Account(n, n, role) for n, role in roles.items()], tmp_path)
    with Mosquitto(tmp_path / "broker", free_port(), accounts) as broker:
        readers = {name: Reader(broker, name) for name in ("control", "ann", "boss", "screen")}
        connection = Connection(
            BrokerAddress.parse(broker.url.replace("//", "//bench:bench@")),
            "agent-bench",
            PresenceMessages(AgentStateTopic("bench"), AgentState(status=AgentStatus.ONLINE), b""),
        )
        line = LogLine(at=utc_now(), level=LogLevel.INFO, logger="x", text="hello")
        async with connection:
            with pytest.raises(NotAuthorisedError):
                await connection.publish(LogTopic("another"), line)
            await connection.publish(LogTopic("bench"), line)
            for name in ("control", "boss", "screen"):
                until(readers[name].has_read, name)
        for reader in readers.values():
            reader.stop()
        assert readers["ann"].read == [], "what others do is no client's business"
        assert readers["boss"].read == [line.encode()]
