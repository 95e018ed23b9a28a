"""Processes that die at the worst moment, and what is left of their work: everything."""

import json
import os
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.processes import Processes, are_available, script, wait_for_boards
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_control.sessions import SETTLED_AFTER
from icefarm_schemas import (
    AgentStopping,
    DeviceFailed,
    EvaluationFinished,
    Presence,
    utc_now,
)
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    AgentStateTopic,
    AssignmentTopic,
    ControlStateTopic,
    DeviceStateTopic,
    EventsTopic,
    SessionStateTopic,
)


@pytest.fixture
def farm(processes: Processes, mosquitto: Mosquitto) -> Processes:
    """Two agents with two boards each."""
    processes.control()
    processes.agent("left", boards=2, speed=4)
    processes.agent("right", boards=2, speed=4)
    wait_for_boards(mosquitto.url, 4)
    return processes


def results_so_far(recorder: Recorder) -> list[EvaluationFinished]:
    messages = [r.message for r in recorder.of(EventsTopic)]
    return [message for message in messages if isinstance(message, EvaluationFinished)]


def test_an_experiment_survives_the_death_of_control(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, recorder: Recorder, tmp_path: Path
) -> None:
    output = tmp_path / "results.json"
    files = [str(circuits / "pulse_1khz.bin"), str(circuits / "pulse_5khz.bin")] * 40
    with output.open("wb") as file:
        evaluating = subprocess.Popen(
            [script("icefarm"), "evaluate", *files, "--count", "4", "--json"],
            stdout=file,
            env=farm.environment,
        )
    until(lambda: len(results_so_far(recorder)) >= 5)
    farm.kill("control")
    until(
        lambda: (
            [r.message.status for r in recorder.of(ControlStateTopic)][-1:] == [Presence.OFFLINE]
        )
    )
    assert len(results_so_far(recorder)) < 75, "too fast to show anything"
    farm.control()
    assert evaluating.wait(60) == 0
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert Counter(result["index"] for result in results) == Counter(range(80))
    assert Counter(result.get("pulses") for result in results) == {1000: 40, 5000: 40}
    # On the wire too, nothing was measured twice.
    until(lambda: len(results_so_far(recorder)) >= 80)
    assert len({(r.evaluation, r.device) for r in results_so_far(recorder)}) == 80
    assert len(results_so_far(recorder)) == 80
    wait_for_boards(mosquitto.url, 4)


def test_the_boards_of_a_client_that_dies_come_back_by_themselves(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, recorder: Recorder
) -> None:
    program = f"""
import icefarm, itertools
with icefarm.Client(name="ann", grace=5) as farm, farm.reserve(4) as boards:
    for result in boards.evaluate(itertools.repeat({str(circuits / "pulse_1khz.bin")!r})):
        pass
"""
    dying = farm.start("client", script("python"), "-c", program)
    until(lambda: len(results_so_far(recorder)) >= 4)
    os.kill(dying.pid, signal.SIGKILL)
    wait_for_boards(mosquitto.url, 4)
    until(lambda: recorder.of(AssignmentTopic)[-1].message is None)
    # What the dead session leaves is removed as well.
    until(lambda: [r.message for r in recorder.of(SessionStateTopic, client="ann")][-1:] == [None])


def test_an_agent_that_dies_is_told_and_comes_back(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        with client.reserve(4):
            farm.kill("agent-left")
            until(lambda: [b.status for b in client.boards()].count("away") == 2)
            farm.agent("left", boards=2, speed=20)
            # Its boards serve their holder again.
            until(lambda: [b.status for b in client.boards()] == ["ready"] * 4)
        until(lambda: client.availability().devices.available == 4)
        farm.kill("agent-left")
        # Control hears of it from the same will, but perhaps a moment after the client.
        until(lambda: client.availability().devices.available == 2)
        with pytest.raises(icefarm.NotAvailableError, match="4 asked for, 2 of 4 free"):
            client.reserve(4)
        farm.agent("left", boards=1, speed=20)
        # The board that did not come back with it leaves nothing behind.
        until(lambda: [b.status for b in client.boards()] == ["available"] * 3)


def test_agents_and_control_stop_however_often_they_are_interrupted(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        client.boards()
        assert farm.interrupt("agent-left") == 0
        until(lambda: [b.status for b in client.boards()].count("away") == 2)
        assert farm.interrupt("control") == 0
        until(lambda: not client.is_served())


@pytest.mark.parametrize("memory", ["kept", "lost"])
def test_the_broker_may_be_restarted_in_the_middle(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, memory: str
) -> None:
    """Mosquitto writes sessions and retained states to its disk when it is told to stop."""
    with (
        icefarm.Client(mosquitto.url, name="ann", grace=30) as client,
        client.reserve(4) as reservation,
    ):
        results = reservation.evaluate([circuits / "pulse_1khz.bin"] * 24)
        seen = [next(results) for _ in range(6)]
        if memory == "kept":
            mosquitto.stop()
        else:
            mosquitto.kill()
            (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        seen += results
    assert sorted(result.index for result in seen) == list(range(24))
    assert {result.pulses for result in seen} == {1000}
    wait_for_boards(mosquitto.url, 4)


def test_who_waits_is_told_although_everybody_forgot(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    """A place in the queue that ends while nobody can say so is asked after, not waited for."""
    with (
        icefarm.Client(mosquitto.url, name="ann") as holder,
        icefarm.Client(mosquitto.url, name="bob", grace=30) as waiting,
        ThreadPoolExecutor() as pool,
    ):
        held = holder.reserve(4)
        place = pool.submit(waiting.reserve, 1, wait=8)
        until(lambda: held.state and holder.availability().queued == 1)
        mosquitto.kill()
        (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        until(lambda: "not_served" in farm.output("control"))
        mosquitto.start()
        with pytest.raises(icefarm.FarmError, match="not enough free boards for as long as"):
            place.result(60)
        held.release()


def test_an_agent_that_is_stopped_says_so_and_its_boards_are_lost_in_the_end(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        held = client.reserve(4, board_grace=1)
        assert farm.interrupt("agent-left") == 0
        until(lambda: len(held.boards) == 2)

        def events() -> list[Any]:
            return [recorded.message for recorded in recorder.of(EventsTopic, client="ann")]

        def failures() -> list[DeviceFailed]:
            return [event for event in events() if isinstance(event, DeviceFailed)]

        until(lambda: len(failures()) >= 2)
        [stopping] = [event for event in events() if isinstance(event, AgentStopping)]
        assert (stopping.agent, stopping.devices) == ("left", ("left-1", "left-2"))
        assert {(event.device, event.reason) for event in failures()} == {
            ("left-1", "agent_gone"),
            ("left-2", "agent_gone"),
        }
        assert events().index(stopping) < events().index(failures()[0])
        held.release()


def test_a_restart_of_broker_and_control_together_ends_no_reservation(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    """The broker publishes all wills when it is shut down, and control reads them at its start."""
    with icefarm.Client(mosquitto.url, name="ann", grace=60) as client:
        held = client.reserve(1)
        assert farm.interrupt("control") == 0
        mosquitto.stop()
        farm.control()
        mosquitto.start()
        until(client.is_served)
        [state] = client.extend(held.id)
        assert state.status == "active"
        # What is not believed at once would be now.
        until(lambda: _settled(client))
        assert client.history(reservation=held.id)[0].what == "extended"


def _settled(client: icefarm.Client) -> bool:
    """Whether control has had the time to believe what it read at its start."""
    state = client._client._view.control
    age = 0.0 if state is None or state.started_at is None else _seconds_since(state.started_at)
    return age > SETTLED_AFTER + 1


def _seconds_since(moment: datetime) -> float:
    return (utc_now() - moment).total_seconds()


def test_what_is_taken_for_the_rest_of_an_agent_that_is_back_is_said_again(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    """As control removes it for an operator who gave an agent up that comes back just then."""

    def is_back(topic: Topic) -> bool:
        said = [r.message for r in recorder.of(type(topic)) if r.topic == topic]
        return None in said and said[-1] is not None

    with icefarm.Client(mosquitto.url, name="ann") as client:
        for topic in (DeviceStateTopic("left", "left-1"), AgentStateTopic("left")):
            at = ["-p", str(mosquitto.port), "-t", topic.build()]
            subprocess.run(["mosquitto_pub", *at, "-r", "-n"], check=True)
            until(partial(is_back, topic))
        until(lambda: are_available(client, 4))
        assert {agent.status for agent in client.agents()} == {"online"}
