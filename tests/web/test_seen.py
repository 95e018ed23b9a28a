"""What the dashboard keeps of what the broker says, and which pages hear of it."""

import asyncio

import pytest

from icefarm_broker import Connected, Received, Synced
from icefarm_broker.packets import Delivery
from icefarm_control.web import seen as seen_module
from icefarm_control.web.changes import Changes
from icefarm_control.web.seen import Seen, lines_of, state_of
from icefarm_schemas import DeviceState, DeviceStatus, LogLevel, LogLine, utc_now
from icefarm_schemas.topics import DeviceStateTopic, LogTopic

DELIVERY = Delivery("", b"", 0, False, None, None, (), None, lambda: None)


def said(agent: str, text: str, board: str | None = None) -> Received:
    line = LogLine(at=utc_now(), level=LogLevel.INFO, logger="x", text=text, device=board)
    return Received(LogTopic(agent), line, DELIVERY)


def reported(agent: str, board: str) -> Received:
    state = DeviceState(
        status=DeviceStatus.AVAILABLE, product="p", behaviours=("serial",), since=utc_now()
    )
    return Received(DeviceStateTopic(agent, board), state, DELIVERY)


async def test_only_pages_that_show_it_hear_of_a_line_or_a_board() -> None:
    changes = Changes()
    seen = Seen(changes)
    shown = {
        "agent": (lines_of("pi"),),
        "board": (lines_of("pi", "a"), state_of("pi", "a")),
        "other board": (lines_of("pi", "b"), state_of("pi", "b")),
        "other agent": (lines_of("other"),),
        "overview": (),
    }
    pages: dict[str, asyncio.Event] = {}

    def woken_by(happening: Received) -> set[str]:
        for page in pages.values():
            page.clear()
        seen.observe(happening)
        return {name for name, page in pages.items() if page.is_set()}

    with (
        changes.woken(shown["agent"]) as pages["agent"],
        changes.woken(shown["board"]) as pages["board"],
        changes.woken(shown["other board"]) as pages["other board"],
        changes.woken(shown["other agent"]) as pages["other agent"],
        changes.woken(shown["overview"]) as pages["overview"],
    ):
        assert woken_by(said("pi", "hello")) == {"agent"}
        assert woken_by(said("pi", "hello", "a")) == {"agent", "board"}
        assert woken_by(said("third", "hello", "a")) == set()
        assert woken_by(reported("pi", "a")) == {"board"}
        changes.tell()
        assert all(page.is_set() for page in pages.values())
    assert woken_by(said("pi", "nobody is there")) == set()
    assert [line.text for line in seen.lines("pi")] == ["nobody is there", "hello", "hello"]
    assert [line.text for line in seen.lines("pi", "a")] == ["hello"]
    assert seen.lines("nobody") == []


def test_a_board_that_the_broker_does_not_know_any_more_is_forgotten() -> None:
    seen = Seen(Changes())
    for happening in (Connected(), reported("pi", "a"), reported("pi", "b"), Synced()):
        seen.observe(happening)
    seen.observe(Received(DeviceStateTopic("pi", "b"), None, DELIVERY))
    assert seen.boards.keys() == {("pi", "a")}
    for happening in (Connected(), reported("pi", "b"), Synced()):
        seen.observe(happening)
    assert seen.boards.keys() == {("pi", "b")}


def test_who_says_most_loses_lines_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "_LINES", 50)
    monkeypatch.setattr(seen_module, "_ALL_LINES", 100)
    seen = Seen(Changes())
    for number in range(200):
        seen.observe(said("loud", str(number)))
    assert [line.text for line in seen.lines("loud")] == [str(n) for n in range(199, 149, -1)]
    for agent in ("a", "b", "c", "d"):
        for number in range(20):
            seen.observe(said(agent, str(number)))
    assert [len(seen.lines(agent)) for agent in ("loud", "a", "b", "c", "d")] == [20] * 5
    assert seen.lines("loud")[0].text == "199"
