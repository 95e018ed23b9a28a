"""What is on the wire, read with paho alone so that a fault of our own connection hides nothing."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions
from support.waiting import until

from icefarm_schemas import DeviceStatus, EvaluationFinished
from icefarm_schemas.topic import DEFAULT_ROOT, InvalidPayloadError, Topic, UnknownTopicError
from icefarm_schemas.topics import (
    DeviceStateTopic,
    EventsTopic,
    parse,
)

Served = tuple[str, str, str]
"""Reservation, agent, device: this device did something for this reservation."""

_FOLLOWED = [
    *(f"{DEFAULT_ROOT}/{branch}/#" for branch in ("control", "agents", "clients", "requests")),
    f"{DEFAULT_ROOT}/reservations/+/state",
]
"""All but the bitstreams: while this is cut off, the broker would hoard these for it."""

_MARKER = "faults/marker"
"""A topic that the farm does not have. What is published there after a subscription comes back
after all that the broker retains."""


class Wire:
    """Follows the topics, and connects again for as long as it takes.

    Args:
        enter: called in the thread that connects, to get into a network from which all is reached.
    """

    def __init__(self, host: str, port: int, enter: Callable[[], None]) -> None:
        self._host, self._port, self._enter = host, port, enter
        self._lock = threading.Lock()
        self._served: set[Served] = set()
        self._retained: dict[Topic, Any] = {}
        self._complete = threading.Event()
        self.broken: list[str] = []
        """What the contract does not have."""
        self.results = 0
        # A name, so that a connection that was cut off ends when it is made again.
        name = f"wire-{secrets.token_hex(4)}"
        self._client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self._complete.clear()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._thread = threading.Thread(target=self._follow, name="wire")
        self._thread.start()

    def _follow(self) -> None:
        self._enter()
        self._client.connect_async(self._host, self._port, keepalive=5)
        self._client.loop_forever(retry_first_connection=True)

    def stop(self) -> None:
        """End."""
        self._client.disconnect()
        self._thread.join()

    def take_served(self) -> set[Served]:
        """Who has served whom since the last call."""
        with self._lock:
            served, self._served = self._served, set()
            return served

    def retained(self) -> dict[Topic, Any]:
        """The latest state of each topic, once all that the broker retains has come."""
        until(self._complete.is_set, "all retained states have come")
        with self._lock:
            return dict(self._retained)

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        with self._lock:
            self._retained.clear()
        # As published, so that a retained state can be told from one that is only passing by.
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        client.subscribe([(text, options) for text in (*_FOLLOWED, _MARKER)])
        client.publish(_MARKER, b"", qos=1)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if message.topic == _MARKER:
            self._complete.set()
            return
        try:
            topic = parse(message.topic)
            decoded = topic.decode(bytes(message.payload))
        except (UnknownTopicError, InvalidPayloadError) as error:
            self.broken.append(f"{message.topic}: {error}")
            return
        with self._lock:
            if topic.retained and decoded is None:
                self._retained.pop(topic, None)
            elif message.retain:
                self._retained[topic] = decoded
            match topic, decoded:
                case DeviceStateTopic(agent, device), state if state is not None:
                    if state.status is DeviceStatus.READY:
                        self._served.add((str(state.reservation), agent, device))
                case EventsTopic(), EvaluationFinished() as event:
                    self.results += 1
                    self._served.add((event.reservation, event.agent, event.device))
