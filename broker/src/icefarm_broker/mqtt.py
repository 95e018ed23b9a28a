"""One MQTT 5 connection, from its CONNECT to its end; with properties.py, all that knows paho.

aiomqtt 2 brings paho into asyncio. What it leaves out, and what is added here, is all that this
project needs beyond it: the reason code of each PUBACK, acknowledging a message only when it has
been dealt with, and ending the broker's session with the connection.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import MessageType, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from icefarm_broker.address import BrokerAddress
from icefarm_broker.errors import (
    BrokerUnreachableError,
    ConnectionLostError,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
    PublishRefusedError,
    TakenOverError,
)
from icefarm_broker.packets import Delivery, Outgoing
from icefarm_broker.properties import publish_packet
from icefarm_broker.receiving import Receiver

log = logging.getLogger(__name__)

# Reason codes of MQTT 5, section 2.4.
_NO_MATCHING_SUBSCRIBERS = 16
_BAD_USER_NAME_OR_PASSWORD = 134
_NOT_AUTHORISED = 135
_SESSION_TAKEN_OVER = 142
_FAILURE = 128

_IN_FLIGHT = 1000
"""Publishes that may wait for their PUBACK at once; paho's default of 20 throttles results."""


def _properties(packet: int) -> Properties:
    # paho has no annotations here.
    return Properties(packet)  # type: ignore[no-untyped-call]


def _number(code: object) -> int:
    """A reason code as the standard numbers it; 0 where there is none."""
    value = code.value if isinstance(code, ReasonCode) else code
    return value if isinstance(value, int) else 0


def _as_will(message: Outgoing) -> aiomqtt.Will:
    properties = _properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = round(message.will_delay)
    if message.content_type is not None:
        properties.ContentType = message.content_type
    return aiomqtt.Will(message.topic, message.payload, 1, message.retain, properties)


class MqttClient(aiomqtt.Client):
    """A connection that is made by `async with` and is over when `lost` is done.

    Args:
        connected: called when the broker has accepted the connection, before any message: a
            session that outlives connections has some waiting.
        deliver: called in the event loop for each message that comes.
        deliver_bytes: called instead with the payloads of topics for which it has something.
        receive_maximum: how many deliveries may wait for their acknowledgement; the broker holds
            back the rest (MQTT 5, 3.1.2.11.3).
        session_expiry: seconds for which the broker keeps the session after a loss.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        connected: Callable[[], None],
        deliver: Callable[[Delivery], None],
        deliver_bytes: Mapping[str, Callable[[bytes], None]],
        *,
        will: Outgoing | None,
        clean_start: bool,
        session_expiry: float,
        keepalive: int,
        receive_maximum: int,
    ) -> None:
        connect = _properties(PacketTypes.CONNECT)
        connect.SessionExpiryInterval = round(session_expiry)
        connect.ReceiveMaximum = receive_maximum
        super().__init__(
            address.host,
            address.port,
            username=address.user,
            password=address.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=ssl.create_default_context() if address.tls else None,
            will=None if will is None else _as_will(will),
            clean_start=clean_start,
            keepalive=keepalive,
            properties=connect,
            max_inflight_messages=_IN_FLIGHT,
            # Without it, Nagle's algorithm and delayed acknowledgements add 40 ms to each packet.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self._address = address
        self._thread = threading.get_ident()
        self._when_connected = connected
        self._deliver = deliver
        self._receiver = Receiver(self._client, deliver_bytes)
        self._client.manual_ack_set(True)
        self._answers: dict[int, asyncio.Future[list[ReasonCode]]] = {}

    async def __aenter__(self) -> "MqttClient":
        lost = self.lost
        lost.add_done_callback(self._fail_answers)
        try:
            await super().__aenter__()
        except aiomqtt.MqttCodeError as error:
            self._client.disconnect()
            if _number(error.rc) in (_BAD_USER_NAME_OR_PASSWORD, _NOT_AUTHORISED):
                raise LoginRefusedError(
                    f"the broker at {self._address} refuses the login"
                    + (f" of {self._address.user}" if self._address.user else " without a user")
                    + "; check the user name and password in its address"
                ) from error
            raise BrokerUnreachableError(
                f"the broker at {self._address} refuses the connection: {error}"
            ) from error
        except (aiomqtt.MqttError, OSError) as error:
            # Of a broker that accepts but does not answer, the socket would stay open.
            self._client.disconnect()
            raise BrokerUnreachableError(
                f"no broker answers at {self._address}: {error}; is it running there?"
            ) from error
        if lost.done():
            # aiomqtt puts a new future in its place, which would never be done.
            self._client.disconnect()
            raise ConnectionLostError(f"the broker at {self._address} cut the connection at once")
        return self

    async def close(self, *, with_will: bool = False) -> None:
        """Say goodbye: the broker forgets the session, and drops the will unless told otherwise."""
        farewell = _properties(PacketTypes.DISCONNECT)
        farewell.SessionExpiryInterval = 0
        reason = ReasonCode(
            PacketTypes.DISCONNECT,
            "Disconnect with will message" if with_will else "Normal disconnection",
        )
        self._client.disconnect(reason, farewell)
        await asyncio.wait([self.lost], timeout=1)

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is over."""
        return self._disconnected

    def why_lost(self) -> Exception:
        """What ended the connection, as this package's error."""
        cause = self.lost.exception() if self.lost.done() else None
        if isinstance(cause, aiomqtt.MqttCodeError) and isinstance(cause.rc, ReasonCode):
            if cause.rc.value == _SESSION_TAKEN_OVER:
                return TakenOverError(
                    f"another process connected to {self._address} as {self.identifier!r}"
                )
            return ConnectionLostError(f"the broker at {self._address} said: {cause.rc}")
        return ConnectionLostError(f"lost the broker at {self._address}: {cause or 'closed'}")

    async def publish_and_confirm(self, message: Outgoing) -> None:
        """Publish with QoS 1 and wait for the broker's PUBACK.

        Raises:
            NotAuthorisedError, NobodyListensError, PublishRefusedError: the broker's answer.
            ConnectionLostError: no answer came; the message may or may not have arrived.
        """
        info = self._client.publish(
            message.topic,
            message.payload,
            1,
            message.retain,
            message,  # type: ignore[arg-type]  # of properties, paho wants `pack` only
        )
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_QUEUE_SIZE):
            raise ConnectionLostError(paho.error_string(info.rc))
        [code] = await self._answer(info.mid)
        if code.value == _NOT_AUTHORISED:
            raise NotAuthorisedError(
                f"the broker does not allow {self._address.user or 'an anonymous user'} "
                f"to publish to {message.topic}"
            )
        if code.value == _NO_MATCHING_SUBSCRIBERS and not message.retain:
            raise NobodyListensError(f"nobody listens to {message.topic}")
        if code.value >= _FAILURE:
            raise PublishRefusedError(
                f"the broker refused {len(message.payload):,} bytes on {message.topic}: {code}"
            )

    def send(self, topic: str, payload: bytes, content_type: str | None = None) -> None:
        """Publish with QoS 0, at once and without an answer.

        Behind what paho has still to write, if anything; else past it, for its way costs three
        times as much: a turn of the event loop, and tables of properties for a callback.

        Raises:
            ConnectionLostError: there is no connection any more.
        """
        sock = self._client.socket()
        if sock is None or self.lost.done():
            raise ConnectionLostError("the connection is over")
        packet = publish_packet(topic, payload, content_type)
        sent = 0
        if not self._client.want_write():
            try:
                sent = sock.send(packet)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                sent = 0
            except OSError as error:
                raise ConnectionLostError(f"the connection is over: {error}") from error
        if sent < len(packet):
            # Its number and QoS are only for paho's books, in which this packet does not stand.
            self._client._packet_queue(MessageType.PUBLISH, packet[sent:], 0, 1)

    async def subscribe_to(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 1; messages that match several filters may come several times.

        Raises:
            NotAuthorisedError: the broker refuses one of the filters.
            ConnectionLostError: no answer came.
        """
        options = SubscribeOptions(qos=1)
        result, mid = self._client.subscribe([(text, options) for text in filters])
        for text, code in zip(filters, await self._answer(mid, result), strict=True):
            if code.value >= _FAILURE:
                raise NotAuthorisedError(f"the broker refused the subscription to {text}: {code}")

    async def unsubscribe_from(self, filters: Sequence[str]) -> None:
        """Undo `subscribe_to`.

        Raises:
            ConnectionLostError: no answer came.
        """
        result, mid = self._client.unsubscribe(list(filters))
        await self._answer(mid, result)

    async def _answer(
        self, mid: int | None, result: MQTTErrorCode = MQTTErrorCode.MQTT_ERR_SUCCESS
    ) -> list[ReasonCode]:
        """The reason codes of the packet that answers the one with this message id.

        Not aiomqtt's own waiting: up to Python 3.11 its `asyncio.wait_for` loses a cancellation
        that comes with the answer, and a process that is to stop would go on.
        """
        if mid is None or result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLostError(paho.error_string(result))
        answer: asyncio.Future[list[ReasonCode]] = asyncio.get_running_loop().create_future()
        self._answers[mid] = answer
        try:
            return await answer
        finally:
            del self._answers[mid]

    def _take_answer(self, mid: int, codes: list[ReasonCode]) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(codes)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_connect(client, userdata, flags, reason_code, properties)
        if not reason_code.is_failure:
            self._when_connected()

    def _fail_answers(self, lost: "asyncio.Future[None]") -> None:
        # Or asyncio complains where nobody has waited for it.
        why = None if lost.cancelled() else lost.exception()
        log.debug("the connection is over: %s", why or "closed")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self.why_lost())

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        self._take_answer(mid, [reason_code])

    def _on_subscribe(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties | None = None,
    ) -> None:
        self._take_answer(mid, reason_codes)

    _on_unsubscribe = _on_subscribe

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done():
            # aiomqtt would wait for ten seconds for a connection that was cut while it was made.
            self._loop.call_soon_threadsafe(self._give_up_connecting)

    def _give_up_connecting(self) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection was cut at once"))
            # Or asyncio complains where nobody waits for it any more.
            self._connected.exception()

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # Not aiomqtt's own, which would read in another way, and from a number that may belong to
        # another socket by then.
        self._loop.call_soon_threadsafe(self._begin_to_read, sock)

    def _begin_to_read(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._read)
            self._misc_task = self._loop.create_task(self._misc_loop())

    def _read(self) -> None:
        try:
            self._receiver.read()
        except asyncio.CancelledError:
            # Of a connection that was given up before it was made: aiomqtt asks a future of it that
            # has been cancelled. There is no task here that this could be meant for.
            if not self.lost.done():
                self.lost.set_result(None)
        except Exception as error:
            # As in aiomqtt, it ends the connection; what comes next may make no sense any more.
            log.exception("what the broker at %s sent could not be dealt with", self._address)
            if not self.lost.done():
                self.lost.set_exception(error)

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # aiomqtt registers the socket a moment later, when it may be closed already; within the
        # event loop's own thread it can be done at once.
        def write() -> None:
            try:
                client.loop_write()
            except OSError as error:
                if not self.lost.done():
                    self.lost.set_exception(error)

        if threading.get_ident() == self._thread:
            self._loop.add_writer(sock.fileno(), write)
        else:
            super()._on_socket_register_write(client, userdata, sock)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        properties = message.properties
        self._deliver(
            Delivery(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=message.retain,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
                user_properties=tuple(getattr(properties, "UserProperty", ())),
                expiry=getattr(properties, "MessageExpiryInterval", None),
                acknowledge=lambda: self._acknowledge(message),
            )
        )

    def _acknowledge(self, message: paho.MQTTMessage) -> None:
        # On a connection that is over, the broker sends the message again anyway.
        if not self.lost.done():
            self._client.ack(message.mid, message.qos)
