"""A part's connection to the broker: it stays, through losses, and speaks in topics and messages.

A consumer iterates over the connection and sees, in order, that it `Connected`, what it
`Received`, when it has `Synced` (all retained states that its subscriptions match have come) and
when it `Disconnected`. A message is acknowledged when the consumer asks for the next one, so a
slow consumer holds back the broker rather than filling memory.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from icefarm_broker import wire
from icefarm_broker.address import BrokerAddress
from icefarm_broker.errors import BrokerError, ConnectionLostError, PublishRefusedError
from icefarm_broker.happenings import (
    Connected,
    Disconnected,
    Happening,
    PresenceMessages,
    Synced,
    read,
)
from icefarm_broker.keeping import Keeper
from icefarm_broker.mqtt import MqttClient
from icefarm_broker.packets import Delivery, Outgoing
from icefarm_schemas import CONTENT_TYPE, MAX_PAYLOAD_BYTES, Message
from icefarm_schemas.topic import Topic

KEEPALIVE = 10
"""Seconds; a silent part is noticed by the broker after one and a half of them."""

_RECEIVE_MAXIMUM = 500
_PUBLISHES_AT_ONCE = 500
_LONGEST_QUEUE = 2 * _RECEIVE_MAXIMUM
_FAREWELL = 2.0
"""Seconds that the last message may take."""

log = logging.getLogger(__name__)


class Connection:
    """Made by `async with`; publishes and subscriptions outlive a loss of the broker.

    Args:
        address: the broker.
        client_id: unique at the broker; the same id takes over the earlier session.
        presence: the birth and the will.
        subscriptions: filters that are subscribed to whenever the connection is made.
        snapshots: filters that are subscribed to only until `Synced`, to compare what is retained
            with one's own truth.
        session_expiry: seconds for which the broker keeps subscriptions and queued messages.
        clean_start: forget an earlier session of the same client id.
        patience: seconds to keep trying for the first connection; None tries for ever.
        strict: take nothing for what it is not, such as the text "1" for a number, and check what
            is published as well.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        presence: PresenceMessages,
        *,
        subscriptions: Iterable[str] = (),
        snapshots: Iterable[str] = (),
        session_expiry: float = 0,
        clean_start: bool = True,
        patience: float | None = None,
        keepalive: int = KEEPALIVE,
        strict: bool = False,
    ) -> None:
        self.address = address
        self.client_id = client_id
        self._presence = presence
        self._subscriptions = dict.fromkeys(subscriptions)
        self._snapshots = list(snapshots)
        self._session_expiry = session_expiry
        self._clean_start = clean_start
        self._keepalive = keepalive
        self._strict = strict
        self._keeper = Keeper(client_id, patience, self._make, self._lose, self._end)
        # None is the end: the keeper has failed, or has been stopped.
        self._happenings: asyncio.Queue[Happening | Delivery | None] = asyncio.Queue()
        self._unacknowledged: Delivery | None = None
        self._slots = asyncio.Semaphore(_PUBLISHES_AT_ONCE)
        self._syncing: dict[bytes, asyncio.Future[None]] = {}
        self._one_sync = asyncio.Lock()
        self._takers: dict[str, Callable[[bytes], None]] = {}
        self._when_lost: dict[str, Callable[[Exception], None]] = {}

    async def __aenter__(self) -> Self:
        """Connect for the first time.

        Raises:
            LoginRefusedError: the broker refuses the user name or password.
            BrokerUnreachableError: no connection came about within `patience`.
        """
        await self._keeper.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say farewell, and goodbye to the broker, which then does not publish the will."""
        said = await self._say_farewell()
        # Without a farewell, the will says that this part is gone.
        await self._keeper.stop(with_will=not said)

    async def _say_farewell(self) -> bool:
        """Say it now or never: a connection that is lost is not made again for that."""
        presence, mqtt = self._presence, self._keeper.now
        if presence.farewell is None:
            return True
        if mqtt is None:
            return False
        try:
            async with asyncio.timeout(_FAREWELL):
                # Not behind all else that waits to be published.
                await mqtt.publish_and_confirm(
                    self._outgoing(presence.topic, presence.farewell, retain=True)
                )
        except (TimeoutError, BrokerError) as error:
            log.info("no farewell to the broker, which notices by itself: %s", error)
            return False
        return True

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known; `round_trip` finds out."""
        return self._keeper.now is not None

    @property
    def losses(self) -> int:
        """How often the connection was lost; it is made again each time."""
        return self._keeper.losses

    async def round_trip(self) -> float:
        """Ask the broker for something that changes nothing, and return after how many seconds it
        has answered.

        Raises:
            ConnectionLostError: there is no connection, or it was lost meanwhile.
        """
        asked = time.monotonic()
        await self._now().unsubscribe_from([f"{self.root}/never-subscribed"])
        return time.monotonic() - asked

    @property
    def root(self) -> str:
        """The root of the farm's topics."""
        return self.address.root

    async def publish(
        self,
        topic: Topic,
        message: Message | bytes,
        *,
        retain: bool | None = None,
        response_topic: Topic | None = None,
        correlation: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        expiry: int | None = None,
    ) -> None:
        """Publish once the connection is there, and again after a loss, until it is confirmed.

        `retain` is what the topic says unless given. An empty payload removes a retained state.
        `expiry` is for how many seconds the message may wait for its receiver.

        Raises:
            NotAuthorisedError: the access list forbids it.
            NobodyListensError: nobody has subscribed to it, and it is not retained.
            PublishRefusedError: it is too large, or the broker gave another reason.
        """
        outgoing = self._outgoing(
            topic,
            message,
            retain=topic.retained if retain is None else retain,
            response_topic=None if response_topic is None else response_topic.build(self.root),
            correlation=correlation,
            user_properties=user_properties,
            expiry=expiry,
        )
        if len(outgoing.payload) > MAX_PAYLOAD_BYTES:
            raise PublishRefusedError(
                f"{len(outgoing.payload):,} bytes are too many for one message; "
                f"{MAX_PAYLOAD_BYTES:,} fit"
            )
        async with self._slots:
            await self._keeper.persist(lambda mqtt: mqtt.publish_and_confirm(outgoing))

    def _outgoing(self, topic: Topic, message: Message | bytes, **fields: Any) -> Outgoing:
        payload = _payload(message)
        if self._strict:
            topic.decode(payload, strict=True)
        content_type = CONTENT_TYPE if payload and topic.carries is not bytes else None
        outgoing = Outgoing(topic.build(self.root), payload, content_type=content_type, **fields)
        wire.log("->", outgoing.topic, outgoing.payload)
        return outgoing

    async def introduce_as(self, birth: Message) -> None:
        """Say something else of this part from now on than its first birth did."""
        self._presence = replace(self._presence, birth=birth)
        await self.publish(self._presence.topic, birth, retain=True)

    def send(self, topic: str, payload: bytes, content_type: str | None = None) -> None:
        """Publish bytes with QoS 0, now or never; `topic` is as `Topic.build` makes it.

        Raises:
            ConnectionLostError: there is no connection now.
        """
        mqtt = self._now()
        wire.log("->", topic, payload)
        mqtt.send(topic, payload, content_type)

    def _now(self) -> MqttClient:
        if (mqtt := self._keeper.now) is None:
            raise ConnectionLostError("there is no connection to the broker now")
        return mqtt

    def take_bytes(
        self, topic: str, take: Callable[[bytes], None], lost: Callable[[Exception], None]
    ) -> None:
        """Call `take` with what comes on a topic with QoS 0, past the consumer of this connection.

        And `lost` when the connection is lost; both until `take_no_more`. It does not subscribe.
        """

        def log_and_take(payload: bytes) -> None:
            wire.log("<-", topic, payload)
            take(payload)

        # Whether it logs is decided here, since bytes pass by thousands of times a second.
        self._takers[topic] = log_and_take if wire.is_logged() else take
        self._when_lost[topic] = lost

    def take_no_more(self, topic: str) -> None:
        """Undo `take_bytes`."""
        self._takers.pop(topic, None)
        self._when_lost.pop(topic, None)

    async def subscribe(self, *filters: str) -> None:
        """Subscribe now and at every later connection.

        Raises:
            NotAuthorisedError: the access list forbids it.
        """
        self._subscriptions.update(dict.fromkeys(filters))
        await self._keeper.persist(lambda mqtt: mqtt.subscribe_to(filters))

    async def subscribe_and_sync(self, *filters: str) -> None:
        """Subscribe and return when the consumer has had every state retained under the filters.

        Raises:
            NotAuthorisedError: the access list forbids it.
        """
        self._subscriptions.update(dict.fromkeys(filters))

        async def sync(mqtt: MqttClient) -> None:
            synced = await self._sync(mqtt, filters)
            await asyncio.wait([synced, mqtt.lost], return_when=asyncio.FIRST_COMPLETED)
            if not synced.done():
                raise ConnectionLostError("the connection was lost before all states had come")

        await self._keeper.persist(sync)

    async def unsubscribe(self, *filters: str) -> None:
        """Undo `subscribe`."""
        for text in filters:
            self._subscriptions.pop(text, None)
        if (mqtt := self._keeper.now) is not None:
            try:
                await mqtt.unsubscribe_from(filters)
            except ConnectionLostError:
                log.debug("not unsubscribed, since the connection is lost: %s", filters)

    def __aiter__(self) -> AsyncIterator[Happening]:
        return self

    async def __anext__(self) -> Happening:
        """The next happening; the message before it is acknowledged.

        Raises:
            TakenOverError: another process uses this client id, so this one stops.
        """
        if self._unacknowledged is not None:
            self._unacknowledged.acknowledge()
            self._unacknowledged = None
        happening = await self._happenings.get()
        if happening is None:
            # For whoever asks again.
            self._happenings.put_nowait(None)
            await self._keeper.result()
            raise StopAsyncIteration
        if isinstance(happening, Delivery):
            self._unacknowledged = happening
            return self._read(happening)
        return happening

    def _deliver(self, delivery: Delivery) -> None:
        # QoS 1 is bounded by the receive maximum. QoS 0 is not, but may be lost by definition.
        if delivery.qos == 0 and self._happenings.qsize() >= _LONGEST_QUEUE:
            log.error("dropped a message on %s: too many are waiting", delivery.topic)
            return
        self._happenings.put_nowait(delivery)

    def _read(self, delivery: Delivery) -> Happening:
        wire.log("<-", delivery.topic, delivery.payload)
        synced = self._syncing.pop(delivery.correlation or b"", None)
        if synced is not None:
            if not synced.done():
                synced.set_result(None)
            return Synced()
        return read(delivery, self.root, strict=self._strict)

    def _lose(self, why: Exception) -> None:
        for tell in list(self._when_lost.values()):
            tell(why)
        self._happenings.put_nowait(Disconnected(why))

    def _end(self) -> None:
        self._happenings.put_nowait(None)

    async def _make(self) -> MqttClient:
        presence = self._presence
        mqtt = MqttClient(
            self.address,
            self.client_id,
            lambda: self._happenings.put_nowait(Connected()),
            self._deliver,
            self._takers,
            will=Outgoing(
                topic=presence.topic.build(self.root),
                payload=_payload(presence.will),
                retain=True,
                content_type=CONTENT_TYPE if presence.will else None,
                will_delay=presence.will_delay,
            ),
            clean_start=self._clean_start,
            session_expiry=max(self._session_expiry, presence.will_delay),
            keepalive=self._keepalive,
            receive_maximum=_RECEIVE_MAXIMUM,
        )
        await mqtt.__aenter__()
        try:
            keeper = asyncio.current_task()
            if keeper is not None and keeper.cancelling():
                # aiomqtt waits with asyncio.wait_for, which may lose one (see mqtt.py).
                raise asyncio.CancelledError
            await self._introduce(mqtt)
        except BaseException:
            await mqtt.close()
            raise
        return mqtt

    async def _introduce(self, mqtt: MqttClient) -> None:
        # A session that outlives its first connection has results queued in it.
        self._clean_start = self._clean_start and self._session_expiry == 0
        self._syncing.clear()
        await self._sync(mqtt, [*self._subscriptions, *self._snapshots])
        if self._snapshots:
            await mqtt.unsubscribe_from(self._snapshots)

    async def _sync(self, mqtt: MqttClient, filters: Sequence[str]) -> asyncio.Future[None]:
        """Subscribe and send the birth; its return, marked, is the end of the retained states.

        The broker sends retained states when it handles a subscription, so before what is
        published later.
        """
        birth = self._outgoing(
            self._presence.topic,
            self._presence.birth,
            retain=True,
            correlation=secrets.token_bytes(8),
        )
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert birth.correlation is not None
        self._syncing[birth.correlation] = synced
        # Another one would end the subscription that this one's birth comes back by.
        async with self._one_sync:
            await mqtt.subscribe_to([*dict.fromkeys([*filters, birth.topic])])
            await mqtt.publish_and_confirm(birth)
            if birth.topic not in self._subscriptions:
                await mqtt.unsubscribe_from([birth.topic])
        return synced


def _payload(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()
