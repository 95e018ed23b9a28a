"""The debug switch: every message in the log, and none that is not as the contract says."""

import logging
import os
import subprocess
import sys

import paho.mqtt.publish
import pytest
from support.processes import Processes
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker import BrokerAddress
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas.topics import AvailabilityTopic


def test_every_message_is_logged(
    farm: Processes, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "icefarm")
    with icefarm.Client(mosquitto.url, name="ann", debug=True) as client, client.reserve(1) as held:
        list(held.evaluate([b"x" * 5000 + b"\xff"]))
    wire = [record.message for record in caplog.records if record.name == "icefarm.wire"]
    for beginning in (
        f"-> icefarm/v1/requests/ann/{client.session}/reserve " + '{"behaviour":"pulsecount"',
        f"<- icefarm/v1/clients/ann/{client.session}/replies " + "{",
        f"<- icefarm/v1/reservations/{held.id}/state " + "{",
        f"-> icefarm/v1/reservations/{held.id}/commands/ann/{client.session}/evaluate/",
        f"<- icefarm/v1/clients/ann/{client.session}/events " + '{"event":"evaluation_finished"',
    ):
        assert [line for line in wire if line.startswith(beginning)], beginning
    assert [line for line in wire if line.endswith(" 5,001 bytes")]


def test_a_message_that_is_not_strictly_right_ends_the_session(
    mosquitto: Mosquitto, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "icefarm")  # Which it restores.
    recorder.expect_fault("control/availability")
    address = BrokerAddress.parse(mosquitto.url)

    def publish(payload: str) -> None:
        paho.mqtt.publish.single(
            AvailabilityTopic().build(),
            payload,
            hostname=address.host,
            port=address.port,
            retain=True,
        )

    with (
        icefarm.Client(mosquitto.url) as client,
        icefarm.Client(mosquitto.url, debug=True) as strict,
    ):
        # Readable, but not what it should be: a number as a text.
        publish('{"devices": {"available": "1", "total": 2}, "queued": 7}')
        until(lambda: _queued(client) == 7)
        with pytest.raises(
            icefarm.InternalFarmError, match=r"control/availability .* valid integer"
        ):
            # The other one may have had the message first.
            until(strict.changed)
        publish("nonsense")
        until(lambda: "ignored a message on icefarm/v1/control/availability" in caplog.text)
        assert _queued(client) == 7


def _queued(client: icefarm.Client) -> int | None:
    try:
        return client.availability().queued
    except icefarm.ControlOfflineError:
        return None


def test_the_environment_can_ask_for_it(mosquitto: Mosquitto) -> None:
    source = "import icefarm\nwith icefarm.Client(name='ann'): pass"
    ended = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "ICEFARM_BROKER": mosquitto.url, "ICEFARM_DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "icefarm.wire -> icefarm/v1/clients/ann/" in ended.stderr
