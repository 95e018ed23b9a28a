"""Retained states kept in step with the broker: what is set here is what the broker holds.

The owner of some topics says what they should hold, in any order and as often as it likes; only
the latest value counts. Whatever the broker holds besides, left by an earlier life of the owner,
is found when the connection is made and removed.
"""

import asyncio
import logging

from icefarm_broker.connection import Connection
from icefarm_broker.errors import BrokerError
from icefarm_broker.happenings import Connected, Happening, Received, Synced
from icefarm_schemas import Message
from icefarm_schemas.topic import Topic

log = logging.getLogger(__name__)

_REMOVED = b""


class RetainedStates:
    """The states that one part owns, of the given kinds.

    The connection's `snapshots` must hold the filters of these kinds, and its consumer must pass
    each happening to `observe`. If it has `subscriptions` to them instead, what somebody else
    removes is published again.
    """

    def __init__(self, connection: Connection, *kinds: type[Topic]) -> None:
        self._connection = connection
        self._kinds = kinds
        self._wanted: dict[Topic, bytes] = {}
        self._held: dict[Topic, bytes] = {}
        self._dirty: dict[Topic, None] = {}
        self._changed = asyncio.Event()

    def hold(self, topic: Topic, message: Message) -> None:
        """Let the topic hold this message."""
        payload = message.encode()
        if self._wanted.get(topic) != payload:
            self._wanted[topic] = payload
            self._mark(topic)

    def remove(self, topic: Topic) -> None:
        """Let the topic hold nothing."""
        if self._wanted.pop(topic, None) is not None:
            self._mark(topic)

    def repeat(self, topic: Topic) -> None:
        """Publish again what the topic should hold, since somebody acts as if it held another."""
        self._mark(topic)

    def observe(self, happening: Happening) -> None:
        """Learn what the broker holds, and repair the difference once all of it is known."""
        match happening:
            case Connected():
                self._held.clear()
            case Received(topic, _, delivery) if delivery.retain and isinstance(topic, self._kinds):
                self._held[topic] = delivery.payload
            case Received(topic, None) if topic in self._wanted:
                self._mark(topic)
            case Synced():
                for topic in self._held.keys() | self._wanted.keys():
                    if self._held.get(topic) != self._wanted.get(topic):
                        self._mark(topic)
                self._held.clear()

    def _mark(self, topic: Topic) -> None:
        self._dirty[topic] = None
        self._changed.set()

    async def run(self) -> None:
        """Publish what changes, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            topics, self._dirty = list(self._dirty), {}
            # All of them before the next, so that an old value of one cannot overtake a new one.
            await asyncio.gather(*(self._publish(topic) for topic in topics))

    async def _publish(self, topic: Topic) -> None:
        try:
            await self._connection.publish(topic, self._wanted.get(topic, _REMOVED), retain=True)
        except BrokerError as error:
            # Trying again would be refused again; the next change or connection tries anew.
            log.error("the state of %s is not published: %s", topic, error)
