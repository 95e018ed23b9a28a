from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefarm_schemas import MAX_PAYLOAD_BYTES, DeviceState, check_name
from icefarm_schemas import topics as t
from icefarm_schemas.topic import (
    DEFAULT_ROOT,
    InvalidPayloadError,
    Topic,
    UnknownTopicError,
    check_root,
)

CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/+#")
NAMES = st.text(CHARACTERS, min_size=1, max_size=64).filter(lambda text: _is_name(text))
ROOT = "lab/icefarm/v1"


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except ValueError:
        return False
    return True


KINDS = Topic.__subclasses__()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_is_built_is_parsed_again(kind: type[Topic], data: st.DataObject) -> None:
    topic = kind(*(data.draw(NAMES) for _ in fields(kind)))
    assert t.parse(topic.build(ROOT), ROOT) == topic


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, f"{DEFAULT_ROOT}/{text}"):
        try:
            topic = t.parse(candidate)
        except UnknownTopicError:
            continue
        assert topic.build() == candidate


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a/b", "slash"),
        ("a+b", "plus"),
        ("#", "number sign"),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("x" * 65, "65 characters"),
        ("$SYS", "begins with \\$"),
        (" a", "white space"),
        ("a\ud800", "control character"),
        ("a\uffff", "no character"),
        ("\ufdd0", "no character"),
    ],
)
def test_a_name_that_a_topic_cannot_hold_is_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        t.AgentStateTopic(name)
    with pytest.raises(ValueError, match=why):
        t.DeviceStateTopic.pattern(device=name)


def test_patterns_have_wildcards_where_no_name_is_given() -> None:
    assert t.DeviceStateTopic.pattern() == "icefarm/v1/agents/+/devices/+/state"
    assert t.DeviceStateTopic.pattern("r", agent="a") == "r/agents/a/devices/+/state"


@pytest.mark.parametrize(
    "text",
    [
        "icefarm/v2/control/state",
        "icefarm/v1",
        "icefarm/v1/control/state/more",
        "icefarm/v1/agents//state",
        "icefarm/v1/agents/+/state",
        "$SYS/broker/version",
    ],
)
def test_a_topic_outside_the_contract_is_refused(text: str) -> None:
    with pytest.raises(UnknownTopicError):
        t.parse(text)


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        (t.RequestTopic("c", "s", "reserve"), b"{", "Invalid JSON"),
        (t.RequestTopic("c", "s", "reserve"), b"\xff\xfe", "Invalid JSON"),
        (t.RequestTopic("c", "s", "reserve"), b"", "Invalid JSON"),
        (t.RequestTopic("c", "s", "reserve"), b'{"behaviour": "b"}', "either count or devices"),
        (t.RequestTopic("c", "s", "reserve"), b'{"behaviour":"b","count":0}', "greater than"),
        (t.RequestTopic("c", "s", "reserve"), b'{"behaviour":"b","count":1,"x":1}', "x: Extra"),
        (t.RequestTopic("c", "s", "reserve"), b'{"behaviour":"a/b","count":1}', "slash"),
        (
            t.RequestTopic("c", "s", "reserve"),
            b'{"behaviour":"b","devices":["d","d"]}',
            "named twice",
        ),
        (t.RequestTopic("c", "s", "extend"), b'{"reservation":"r","duration":1e999}', "finite"),
        (
            t.RequestTopic("c", "s", "reserve"),
            b'{"behaviour":"b","count":1,"arguments":{"x":"a\\u0000"}}',
            "holds the character NUL",
        ),
        (
            t.RequestTopic("c", "s", "reserve"),
            b'{"behaviour":"b","count":1,"arguments":{"x":"' + b"y" * 20_000 + b'"}}',
            "arguments: they have 20,00. characters; 16,384 are allowed",
        ),
        (
            t.RequestTopic("c", "s", "reserve"),
            b'{"behaviour":"b","count":1,"arguments":{"x":NaN}}',
            "arguments: they cannot be JSON",
        ),
        (
            t.RequestTopic("c", "s", "release"),
            b"{" + b",".join(b'"%d":1' % n for n in range(1000)) + b"}",
            "0: Extra .* and 995 more",
        ),
        (
            t.SessionStateTopic("c", "s"),
            b'{"status":"online","since":"9999-12-31T23:59:59-12:00"}',
            "before the year 1 or after 9999",
        ),
        (t.RequestTopic("c", "s", "steal"), b"{}", "no operation 'steal'; there are reserve"),
        (t.EvaluateTopic("r", "c", "s", "e"), bytes(MAX_PAYLOAD_BYTES + 1), "4,194,304 are all"),
        (t.RepliesTopic("c", "s"), b"{}", "one of reservations, history"),
        (t.AgentStateTopic("a"), b'{"status":"asleep"}', "status: Input should be"),
        (
            t.DeviceStateTopic("a", "d"),
            b'{"status":"ready","product":"p","behaviours":[],"since":"2026-01-01T00:00:00"}',
            "timezone",
        ),
    ],
)
def test_a_wrong_payload_is_refused_in_words(topic: Topic, payload: bytes, why: str) -> None:
    with pytest.raises(InvalidPayloadError, match=why):
        topic.decode(payload)


def test_a_removed_state_is_none_but_an_empty_bitstream_is_bytes() -> None:
    assert t.DeviceStateTopic("a", "d").decode(b"") is None
    assert t.EvaluateTopic("r", "c", "s", "e").decode(b"") == b""


def test_times_are_written_in_utc() -> None:
    payload: dict[str, Any] = {
        "status": "ready",
        "product": "p",
        "behaviours": ["b"],
        "since": "2026-01-01T02:00:00+02:00",
    }
    state = DeviceState.model_validate(payload)
    assert b'"since":"2026-01-01T00:00:00Z"' in state.encode()


@pytest.mark.parametrize("root", ["", "/", "a//b", "a/", "+/b", "a/#"])
def test_a_root_that_is_no_topic_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_root(root)
