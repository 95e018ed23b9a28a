"""`icefarm watch`: the live screen, and the lines for programs."""

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from support.processes import Processes, script
from support.screen import Screen
from support.waiting import until

import icefarm
from icefarm.cli.ending import ExitCode
from icefarm.cli.watch import Seen, screen
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import AgentStatus, HeldDevice, ReservationState, ReservationStatus, utc_now


@pytest.fixture
def watched(farm: Processes) -> Iterator[Screen]:
    """The screen, when it shows the farm."""
    with Screen([script("icefarm"), "watch"], farm.environment, 24, 100) as shown:
        until(lambda: "4 of 4 boards available" in shown.text)
        yield shown


def test_everybodys_reservations_and_the_queue_are_shown(
    watched: Screen, farm: Processes, mosquitto: Mosquitto
) -> None:
    def line_of(words: str) -> str:
        return next((line for line in watched.lines if words in line), "")

    with (
        icefarm.Client(mosquitto.url, name="ann") as ann,
        ann.reserve(boards=["bench-1", "bench-3"]) as held,
    ):
        until(lambda: line_of("ann").startswith(held.id))
        assert "bench-1, bench-3" in line_of(held.id)
        until(lambda: "2 of 4 boards available" in watched.text)
        until(lambda: " 0:59:" in line_of(held.id))
        farm.start(
            "queued",
            script("icefarm"),
            *("reserve", "--board", "bench-3", "--wait", "90", "--name", "bob"),
        )
        until(lambda: line_of("bob").endswith("1 in the queue"))
        assert " 0:01:" in line_of("bob")
    until(lambda: line_of("bob").endswith("bench-3"))
    assert held.id not in watched.text


def test_q_ends_it_and_leaves_the_terminal_as_it_was(watched: Screen) -> None:
    watched.press(b"q")
    assert watched.process.wait(10) == ExitCode.OK
    until(lambda: watched.output.endswith("\x1b[?1049l"))


def test_ctrl_c_ends_it(watched: Screen) -> None:
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.wait(10) == ExitCode.INTERRUPTED
    assert "Traceback" not in watched.output


def test_it_tells_when_control_or_the_broker_is_away_and_returns(
    watched: Screen, farm: Processes, mosquitto: Mosquitto
) -> None:
    farm.kill("control")
    until(lambda: "control is not running" in watched.text)
    farm.control()
    until(lambda: "control is not running" not in watched.text)
    mosquitto.stop()
    until(lambda: "the broker is away" in watched.text)
    mosquitto.start()
    until(lambda: "away" not in watched.text and "4 of 4 boards available" in watched.text)


def test_lines_tell_of_each_kind(farm: Processes, mosquitto: Mosquitto) -> None:
    farm.start("watch", script("icefarm"), "watch", "--json")

    def lines(kind: str) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in farm.output("watch").splitlines()]
        return [line for line in told if line["kind"] == kind]

    until(lambda: len(lines("board")) == 4)
    assert [line["name"] for line in lines("agent")] == ["bench"]
    assert lines("broker") == [{"kind": "broker", "online": True}]
    assert lines("control") == [{"kind": "control", "online": True}]
    with icefarm.Client(mosquitto.url, name="ann") as ann:
        held = ann.reserve(boards=["bench-2"])
        until(lambda: lines("reservation"))
        queued = farm.start("queued", script("icefarm"), "reserve", "--board=bench-2", "--wait=60")
        until(lambda: [line.get("position") for line in lines("reservation")] == [None, 1])
        until(lambda: "Waiting for boards: 1 of 1 in the queue" in farm.output("queued"))
        held.release()
    assert queued.wait(30) == ExitCode.OK

    def told(status: str) -> set[str]:
        return {line["reservation"] for line in lines("reservation") if line["status"] == status}

    # It may look after both have happened, and tell of the end last.
    until(lambda: told("ended") and len(told("active")) == 2)
    assert told("ended") == {held.id}
    farm.kill("control")
    until(lambda: lines("control")[-1]["online"] is False)


def test_without_a_terminal_it_asks_for_json(farm: Processes) -> None:
    done = farm.run("watch")
    assert done.returncode == ExitCode.USAGE
    assert "give --json" in done.stderr


def test_what_others_hold_is_forgotten_when_it_ended_while_the_broker_was_away(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    with icefarm.Client(mosquitto.url, name="watcher") as watcher:
        with icefarm.Client(mosquitto.url, name="ann", grace=1) as ann:
            held = ann.reserve(keep=True, duration=12)
        assert [s.reservation for s in watcher.reservations(everybody=True)] == [held.id]
        assert watcher.reservations() == []
        mosquitto.stop()
        until(lambda: not watcher.is_connected())
        until(lambda: f"reservation {held.id} of ann: ended" in farm.output("control"))
        mosquitto.start()
        until(lambda: watcher.is_connected() and not watcher.reservations(everybody=True))


def test_boards_that_went_while_the_broker_was_away_are_forgotten(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    farm.agent("second", boards=1)
    with icefarm.Client(mosquitto.url, name="watcher") as watcher:
        until(lambda: len(watcher.boards()) == 5)
        farm.kill("agent-second")
        mosquitto.kill()
        until(lambda: not watcher.is_connected())
        # It comes back without its memory, and so without what nobody reports any more.
        (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        until(lambda: watcher.is_connected() and len(watcher.boards()) == 4)
        assert [agent.name for agent in watcher.agents()] == ["bench"]


def a_farm(boards: int, reservations: int, *, online: bool = True) -> Seen:
    soon = utc_now() + timedelta(hours=1)
    return Seen(
        is_connected=online,
        is_served=True,
        agents=[icefarm.Agent("bench", True, AgentStatus.ONLINE, None, "1", boards, "b")],
        boards=[
            icefarm.Board(
                f"bench-{n}", "bench", "pico", "available", (), {}, None, None, None, None
            )
            for n in range(boards)
        ],
        reservations=[
            ReservationState(
                reservation=f"{n:010x}",
                status=ReservationStatus.ACTIVE,
                client="ann",
                session="s",
                behaviour="serial",
                devices=(HeldDevice(agent="bench", device=f"held-{n}", behaviour="serial"),),
                created_at=utc_now(),
                expires_at=soon,
            )
            for n in range(reservations)
        ],
    )


@pytest.mark.parametrize("height", [12, 24, 60])
@pytest.mark.parametrize(("boards", "reservations"), [(0, 0), (3, 1), (5000, 2), (5000, 900)])
@pytest.mark.parametrize("online", [True, False])
def test_the_screen_is_never_higher_or_wider_than_the_terminal(
    height: int, boards: int, reservations: int, online: bool
) -> None:
    lines = screen(a_farm(boards, reservations, online=online), 60, height, coloured=False)
    assert len(lines) <= height
    assert max(map(len, lines)) <= 60
    assert lines[-1] == "q ends this"
    shown = {
        "boards": sum(line.startswith("bench-") for line in lines),
        "reservations": sum("held-" in line for line in lines),
    }
    for name, total in (("boards", boards), ("reservations", reservations)):
        more = total - shown[name]
        assert (f"... and {more} more {name}" in lines) == (more > 0)
