"""Our packing and unpacking of properties, compared with paho's own."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from icefarm_broker.properties import _FastProperties, pack

# NUL must not stand in a text, nor half a surrogate pair.
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters=["\0"]), max_size=70)
FIELDS = st.fixed_dictionaries(
    {
        "expiry": st.none() | st.integers(0, 2**32 - 1),
        "content_type": st.none() | TEXT,
        "response_topic": st.none() | TEXT,
        "correlation": st.none() | st.binary(max_size=70),
        "user_properties": st.lists(st.tuples(TEXT, TEXT), max_size=3),
    }
)
NAMES = {
    "expiry": "MessageExpiryInterval",
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation": "CorrelationData",
    "user_properties": "UserProperty",
}


def unpacked(kind: type[Properties], wire: bytes) -> tuple[dict[str, Any], int]:
    properties = kind(PacketTypes.PUBLISH)
    _, length = properties.unpack(wire)  # type: ignore[no-untyped-call]
    found = {key: getattr(properties, name, None) for key, name in NAMES.items()}
    return found, length


@hypothesis.given(fields=FIELDS)
def test_what_is_packed_is_what_paho_reads_and_so_do_we(fields: dict[str, Any]) -> None:
    wire = pack(**fields)
    expected = fields | {"user_properties": fields["user_properties"] or None}
    # Whatever follows in the packet is none of theirs.
    for kind in (Properties, _FastProperties):
        assert unpacked(kind, wire + b"payload") == (expected, len(wire))


@pytest.mark.parametrize(
    "wire", [b"", b"\x05\x03\x00\x09a", b"\x04\x03\x00\x01\0", b"\x03\x7f\x00\x00", b"\x80"]
)
def test_what_is_malformed_is_an_error_as_paho_has_it(wire: bytes) -> None:
    for kind in (Properties, _FastProperties):
        with pytest.raises(Exception):  # noqa: B017, PT011  (paho has several)
            unpacked(kind, wire)
