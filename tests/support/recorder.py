"""Reads every message on the wire and checks it against the contract.

It speaks to the broker with paho alone, so that a fault of our own connection cannot hide one.
"""

import threading
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from icefarm_broker import BrokerAddress
from icefarm_schemas.topic import InvalidPayloadError, Topic, UnknownTopicError
from icefarm_schemas.topics import (
    parse,
)


@dataclass(frozen=True)
class Recorded:
    """A message as it was on the wire, and as the contract reads it."""

    topic: Topic
    message: Any
    retain: bool


class Recorder:
    """Collects what is published from its start to `stop`."""

    def __init__(self, url: str) -> None:
        address = BrokerAddress.parse(url)
        self._root = address.root
        self._lock = threading.Lock()
        self._recorded: list[Recorded] = []
        self._faults: list[str] = []
        self._expected: list[str] = []
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="recorder", protocol=paho.MQTTv5
        )
        if address.user is not None:
            self._client.username_pw_set(address.user, address.password)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        assert self._subscribed.wait(10), "the recorder could not subscribe"

    def expect_fault(self, beginning: str) -> None:
        """Messages on topics that begin so (without the root) may break the contract."""
        self._expected.append(f"{self._root}/{beginning}")

    def of(self, kind: type[Topic], **names: str) -> list[Recorded]:
        """What came on topics of a kind, with these names in them, in order."""
        with self._lock:
            return [
                recorded
                for recorded in self._recorded
                if isinstance(recorded.topic, kind)
                and all(getattr(recorded.topic, key) == name for key, name in names.items())
            ]

    def stop(self) -> None:
        """End, and fail when anything on the wire broke the contract."""
        self._client.disconnect()
        self._client.loop_stop()
        assert not self._faults, "\n".join(["broken contract on the wire:", *self._faults])

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        # As published, so that a retained state can be told from one that is only passing by.
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        client.subscribe(f"{self._root}/#", options=options)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if any(message.topic.startswith(beginning) for beginning in self._expected):
            return
        try:
            topic = parse(message.topic, self._root)
            decoded = topic.decode(bytes(message.payload))
        except (UnknownTopicError, InvalidPayloadError) as error:
            self._faults.append(f"{message.topic}: {error}")
            return
        kind = getattr(message.properties, "ContentType", None)
        if message.payload and topic.carries is not bytes and kind != "application/json":
            self._faults.append(f"{message.topic}: content type {kind}")
        with self._lock:
            self._recorded.append(Recorded(topic, decoded, message.retain))
