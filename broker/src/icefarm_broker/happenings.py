"""What a connection tells its consumer, in order, and what it tells others of itself."""

import logging
from dataclasses import dataclass
from typing import Any

from icefarm_broker.packets import Delivery
from icefarm_schemas import Message
from icefarm_schemas.topic import InvalidPayloadError, Topic, UnknownTopicError
from icefarm_schemas.topics import parse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connected:
    """The connection is there; retained states follow."""


@dataclass(frozen=True)
class Synced:
    """Every retained state has come that was at the broker when the connection was made."""


@dataclass(frozen=True)
class Disconnected:
    """The connection was lost; it is being made again."""

    why: Exception


@dataclass(frozen=True)
class Received:
    """A message that the contract knows; `message` is bytes for bulk data, None for a removal."""

    topic: Topic
    message: Any
    delivery: Delivery


@dataclass(frozen=True)
class Invalid:
    """A message that the contract does not know; `topic` is None where even that is wrong."""

    topic: Topic | None
    why: str
    delivery: Delivery


def read(delivery: Delivery, root: str, *, strict: bool) -> Received | Invalid:
    """What a message says, or why that cannot be known."""
    try:
        topic = parse(delivery.topic, root)
    except UnknownTopicError as error:
        return Invalid(None, str(error), delivery)
    try:
        return Received(topic, topic.decode(delivery.payload, strict=strict), delivery)
    except InvalidPayloadError as error:
        return Invalid(topic, str(error), delivery)
    except Exception as error:
        # Whatever somebody publishes, it must not end who reads it.
        log.exception("a payload on %s could not be read", delivery.topic)
        return Invalid(topic, f"it could not be read: {error!r}", delivery)


Happening = Connected | Synced | Disconnected | Received | Invalid


@dataclass(frozen=True)
class PresenceMessages:
    """What tells others that a part is there: its birth, and the will for when it is not.

    `will_delay` is in seconds. The `farewell` is said at a clean end, at which the broker does not
    publish the will; empty bytes, of either, remove the state. The birth's topic is where the
    part's own state is retained.
    """

    topic: Topic
    birth: Message
    will: Message | bytes
    will_delay: float = 0
    farewell: Message | bytes | None = None
