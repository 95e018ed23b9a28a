"""MQTT 5 properties on the wire (MQTT 5, 2.2.2), packed and unpacked for the packets that are many.

paho builds the same tables anew for the properties of each packet and looks every name up in them
letter by letter: 20 to 45 microseconds for each packet, half of all that a message costs. So what a
PUBLISH may have is packed and unpacked here; all else is still paho's.
"""

from collections.abc import Sequence
from typing import Any

from paho.mqtt import _packet
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_EXPIRY, _CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION, _USER = 0x02, 0x03, 0x08, 0x09, 0x26

_TABLES = vars(Properties(PacketTypes.PUBLISH))  # type: ignore[no-untyped-call]


def pack(
    *,
    expiry: int | None,
    content_type: str | None,
    response_topic: str | None,
    correlation: bytes | None,
    user_properties: Sequence[tuple[str, str]],
) -> bytes:
    """The properties of a PUBLISH, behind their length."""
    packed = b""
    if expiry is not None:
        packed += bytes((_EXPIRY,)) + expiry.to_bytes(4, "big")
    if content_type is not None:
        packed += bytes((_CONTENT_TYPE,)) + _counted(content_type.encode())
    if response_topic is not None:
        packed += bytes((_RESPONSE_TOPIC,)) + _counted(response_topic.encode())
    if correlation is not None:
        packed += bytes((_CORRELATION,)) + _counted(correlation)
    for key, value in user_properties:
        packed += bytes((_USER,)) + _counted(key.encode()) + _counted(value.encode())
    return _variable_length(len(packed)) + packed


def publish_packet(topic: str, payload: bytes, content_type: str | None = None) -> bytes:
    """A whole PUBLISH with QoS 0 and no other properties (MQTT 5, 3.3)."""
    properties = b""
    if content_type is not None:
        properties = bytes((_CONTENT_TYPE,)) + _counted(content_type.encode())
    head = _counted(topic.encode()) + _variable_length(len(properties)) + properties
    return b"\x30" + _variable_length(len(head) + len(payload)) + head + payload


def _counted(data: bytes) -> bytes:
    """Binary data or a string as MQTT writes it: behind its length (MQTT 5, 1.5.4 and 1.5.6)."""
    return len(data).to_bytes(2, "big") + data


def _variable_length(value: int) -> bytes:
    """A number, seven bits in each byte (MQTT 5, 1.5.5)."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value % 128 | 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)


class _FastProperties(Properties):
    """paho's, with tables that are made once, and an `unpack` for what most packets have."""

    def __init__(self, packet_type: int) -> None:
        self.__dict__.update(_TABLES, packetType=packet_type)

    def unpack(self, buffer: bytes) -> tuple[Properties, int]:
        # Longer ones, and all that may be malformed, are left to paho.
        size = buffer[0] if buffer else 128
        if size > 127 or size >= len(buffer):
            return super().unpack(buffer)  # type: ignore[no-any-return, no-untyped-call]
        found: dict[str, Any] = {}
        at, end = 1, 1 + size
        while at < end:
            kind = buffer[at]
            if kind == _EXPIRY:
                found["MessageExpiryInterval"] = int.from_bytes(buffer[at + 1 : at + 5], "big")
                at += 5
                continue
            after = at + 3 + int.from_bytes(buffer[at + 1 : at + 3], "big")
            data = bytes(buffer[at + 3 : after])
            if after > end or kind not in _READ or _READ[kind] in found or _is_wrong(kind, data):
                return super().unpack(buffer)  # type: ignore[no-any-return, no-untyped-call]
            found[_READ[kind]] = data if kind == _CORRELATION else data.decode()
            at = after
        self.__dict__.update(found)
        return self, end


def _is_wrong(kind: int, data: bytes) -> bool:
    """A text must not hold NUL (MQTT 5, 1.5.4)."""
    return kind != _CORRELATION and 0 in data


_READ = {
    _CONTENT_TYPE: "ContentType",
    _RESPONSE_TOPIC: "ResponseTopic",
    _CORRELATION: "CorrelationData",
}

# Where paho decodes packets, and nowhere else.
_packet.Properties = _FastProperties  # type: ignore[attr-defined]
