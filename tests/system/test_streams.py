"""Consoles of virtual boards, through the real agent, and what does not go with them."""

from collections.abc import Iterator

import pytest
from support.processes import Processes, script, wait_for_boards
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import DeviceState, StreamClosed
from icefarm_schemas.topics import DeviceStateTopic, EventsTopic


@pytest.fixture
def held(processes: Processes, mosquitto: Mosquitto) -> Iterator[icefarm.Reservation]:
    """A board that is used by its console."""
    processes.control()
    processes.agent("bench", boards=1)
    wait_for_boards(mosquitto.url, 1)
    with icefarm.Client(mosquitto.url, name="ann") as client:
        yield client.reserve(behaviour="serial", keep=True)


def read_on(console: icefarm.Console) -> None:
    """Until it is lost."""
    while True:
        console.readline(timeout=30)


def in_use(recorder: Recorder) -> bool:
    """Whether the board says that somebody has a stream open."""
    states: list[DeviceState] = [recorded.message for recorded in recorder.of(DeviceStateTopic)]
    return bool(states) and states[-1].in_use


def test_a_console_shows_what_the_board_says(held: icefarm.Reservation, recorder: Recorder) -> None:
    with held.console() as console:
        # The first line may have begun before the console was open.
        lines = [console.readline(timeout=10) for _ in range(3)]
        assert lines[1:] == [b"default firmware\n"] * 2
        until(lambda: in_use(recorder), "the console open")
    until(lambda: not in_use(recorder), "the console closed")


def test_the_last_one_who_opens_a_console_has_it(
    held: icefarm.Reservation, mosquitto: Mosquitto
) -> None:
    with held.console() as console, icefarm.Client(mosquitto.url, name="ann") as again:
        console.readline(timeout=10)
        with again.find_reservation(held.id, take_over=False).console() as mine:
            assert mine.readline(timeout=10)
            with pytest.raises(icefarm.StreamLostError, match="another process of yours"):
                read_on(console)


def test_a_console_goes_on_after_its_agent_was_killed(
    held: icefarm.Reservation, processes: Processes
) -> None:
    with held.console() as console:
        console.readline(timeout=10)
        processes.kill("agent-bench")
        processes.agent("bench", boards=1)
        with pytest.raises(icefarm.StreamLostError):
            read_on(console)
        console.readline(timeout=30)
        assert console.readline(timeout=10) == b"default firmware\n"


def test_a_session_that_is_gone_leaves_no_stream(
    held: icefarm.Reservation, processes: Processes, recorder: Recorder
) -> None:
    processes.start(
        "console", script("icefarm"), "console", "--name", "ann", "--reservation", held.id
    )
    until(lambda: b"default" in processes.output("console").encode(), "its words")
    until(lambda: in_use(recorder), "the console open")
    processes.kill("console")
    # Its grace is that of a console: a minute; who opens it next need not wait for that.
    with held.console() as console:
        console.readline(timeout=10)
    until(lambda: not in_use(recorder), "the console closed")


def test_a_console_measures_nothing_and_takes_no_firmware(
    held: icefarm.Reservation, recorder: Recorder
) -> None:
    [result] = held.evaluate([bytes(104_090)])
    assert isinstance(result.error, icefarm.NotSupportedError)
    with pytest.raises(icefarm.InvalidFirmwareError, match="no processor"):
        held.flash(b"UF2")
    held.reset()
    held.change("pulsecount")
    with (
        pytest.raises(icefarm.NotSupportedError, match="change its behaviour"),
        held.console(),
    ):
        pytest.fail("there is no console of a measuring board")
    until(lambda: refused(recorder), "the agent's refusal")


def refused(recorder: Recorder) -> bool:
    """Whether an agent has told that there is no stream."""
    told = [r.message for r in recorder.of(EventsTopic) if isinstance(r.message, StreamClosed)]
    return bool(told) and told[-1].error is not None
