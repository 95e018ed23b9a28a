"""A message on its way to the broker, and one that came from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from icefarm_broker.properties import pack


@dataclass(frozen=True)
class Outgoing:
    """A message to be published.

    `expiry` is for how many seconds somebody wants it delivered; `will_delay`, in seconds too, is
    only for a will.
    """

    topic: str
    payload: bytes
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    user_properties: Sequence[tuple[str, str]] = ()
    expiry: int | None = None
    will_delay: float = 0

    def pack(self) -> bytes:
        """The properties of its PUBLISH on the wire: all that paho asks of them."""
        return pack(
            expiry=self.expiry,
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation=self.correlation,
            user_properties=self.user_properties,
        )


@dataclass(frozen=True)
class Delivery:
    """A message that came; `acknowledge` lets the broker forget it and send another.

    `expiry` is for how many seconds more it is wanted, where its sender said so.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None
    correlation: bytes | None
    user_properties: tuple[tuple[str, str], ...]
    expiry: int | None
    acknowledge: Callable[[], None] = field(repr=False, compare=False)
