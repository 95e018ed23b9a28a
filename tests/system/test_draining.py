"""Agents that are drained and restarted while their boards are in use."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.local_farm import a_farm
from support.processes import Processes, free_boards, wait_for_boards
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_broker.service import EXIT_RESTART
from icefarm_schemas import AgentState, AgentStatus, EndReason, FailureReason
from icefarm_schemas.topics import AgentStateTopic, AgentWishTopic, DeviceStateTopic


@pytest.fixture
def farm(processes: Processes) -> Processes:
    """Two boards, both available."""
    processes.serve(boards=2)
    return processes


@contextmanager
def ann_and_olga(mosquitto: Mosquitto) -> Iterator[tuple[icefarm.Client, icefarm.Client]]:
    """A holder, and an operator."""
    with (
        icefarm.Client(mosquitto.url, name="ann") as ann,
        icefarm.Client(mosquitto.url, name="olga") as olga,
    ):
        yield ann, olga


def status_of(client: icefarm.Client, agent: str = "bench") -> AgentStatus | None:
    return {found.name: found.status for found in client.agents()}.get(agent)


def drains(client: icefarm.Client) -> bool:
    """Whether the agent says so, and control counts its boards no more."""
    free = client.availability().devices.available
    return status_of(client) is AgentStatus.DRAINING and free == 0


def pulses(circuits: Path) -> list[Path]:
    return [circuits / f"pulse_{frequency}khz.bin" for frequency in (1, 5, 20)]


def test_who_holds_a_board_of_a_drained_agent_finishes_and_nobody_else_gets_one(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder, circuits: Path
) -> None:
    stopping: list[icefarm.AgentStopping] = []
    with ann_and_olga(mosquitto) as (ann, olga):
        ann.on(icefarm.AgentStopping, stopping.append)
        with ann.reserve(1) as held:
            results = held.evaluate(pulses(circuits) * 4)
            first = next(results)
            [agent] = olga.operator.drain("bench", deadline=600)
            assert agent.reservations == (held.id,)
            until(lambda: drains(olga))
            rest = list(results)
            assert len([first, *rest]) == 12
            assert all(result.error is None for result in rest)
            [told] = until(lambda: stopping)
            assert (told.reservation, told.boards) == (held.id, (held.boards[0].name,))
            assert told.until is not None
            assert agent.drains_until is not None
            # The agent reckons from its clock, at two moments.
            assert abs(told.until - agent.drains_until).total_seconds() < 10
            with pytest.raises(icefarm.NotAvailableError, match="0 of 2 free"):
                ann.reserve(1)
            # It outlives control, and the agent.
            farm.kill("control")
            farm.control()
            farm.kill("agent-bench")
            until(lambda: held.boards[0].status == "away" and not drains(olga))
            farm.agent("bench", boards=2)
            until(lambda: held.boards[0].status == "ready" and drains(olga))
            # The same may be said again, by whoever begins to lead before he has seen it there.
            wishes = [recorded.message for recorded in recorder.of(AgentWishTopic)]
            assert all(wish == wishes[0] for wish in wishes), "it was called off in between"
            [again] = held.evaluate([circuits / "pulse_5khz.bin"])
            assert again.error is None
        until(lambda: {board.status for board in olga.boards()} == {"draining"})
        olga.operator.resume("bench")
        with ann.reserve(2, wait=30):
            until(lambda: status_of(olga) is AgentStatus.ONLINE)


def test_at_the_deadline_the_boards_of_a_drained_agent_are_taken_back(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    failed: list[icefarm.BoardFailed] = []
    ended: list[icefarm.ReservationEnded] = []
    with ann_and_olga(mosquitto) as (ann, olga):
        ann.on(icefarm.BoardFailed, failed.append)
        ann.on(icefarm.ReservationEnded, ended.append)
        held = ann.reserve(1)
        olga.operator.drain(everything=True, deadline=0.5)
        until(lambda: failed and ended)
        assert (failed[0].reason, failed[0].reservation) == (FailureReason.AGENT_DRAINED, held.id)
        assert failed[0].detail == "olga drains its agent"
        assert ended[0].reason is EndReason.DEVICES_LOST
        until(lambda: {board.status for board in olga.boards()} == {"draining"})


def test_sigterm_lets_holders_finish_and_ends_with_everything_unbound(
    processes: Processes, mosquitto: Mosquitto, recorder: Recorder, circuits: Path
) -> None:
    processes.control()
    agent = processes.agent("bench", options=("--drain-timeout=60",))
    wait_for_boards(mosquitto.url, 2)
    with icefarm.Client(mosquitto.url, name="ann") as ann:
        held = ann.reserve(1)
        agent.send_signal(signal.SIGTERM)
        until(lambda: drains(ann))
        assert len(list(held.evaluate(pulses(circuits)))) == 3
        held.release()
        assert agent.wait(30) == 0
    last = AgentState(status=AgentStatus.OFFLINE)
    until(lambda: [r.message for r in recorder.of(AgentStateTopic)][-1:] == [last])


def test_a_second_signal_ends_a_draining_agent_at_once(
    processes: Processes, mosquitto: Mosquitto
) -> None:
    processes.control()
    agent = processes.agent("bench", options=("--drain-timeout=600",))
    wait_for_boards(mosquitto.url, 2)
    with icefarm.Client(mosquitto.url, name="ann") as ann, ann.reserve(1, board_grace=0):
        agent.send_signal(signal.SIGTERM)
        until(lambda: drains(ann))
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0


def test_the_deadline_of_sigterm_ends_an_agent_whose_boards_are_held(
    processes: Processes, mosquitto: Mosquitto
) -> None:
    processes.control()
    agent = processes.agent("bench", options=("--drain-timeout=1",))
    wait_for_boards(mosquitto.url, 2)
    with icefarm.Client(mosquitto.url, name="ann") as ann:
        held = ann.reserve(1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
        # Who was not done goes on when it is back.
        until(lambda: held.boards[0].status == "away")
        processes.agent("bench", boards=2)
        until(lambda: held.boards[0].status == "ready")


def test_a_restarted_agent_ends_for_its_supervisor_and_its_holders_go_on(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder, circuits: Path
) -> None:
    with ann_and_olga(mosquitto) as (ann, olga):
        held = ann.reserve(1)
        results = held.evaluate(pulses(circuits) * 4)
        got = [next(results)]
        olga.operator.restart("bench", deadline=0.5)
        assert farm.wait("agent-bench") == EXIT_RESTART
        farm.agent("bench", boards=2)
        got += list(results)
        assert sorted(result.index for result in got) == list(range(12))
        assert all(result.error is None for result in got)
        until(lambda: status_of(olga) is AgentStatus.ONLINE)
        until(lambda: [r.message for r in recorder.of(AgentWishTopic)][-1:] == [None])
        with ann.reserve(1, wait=30):
            assert len(ann.reservations()) == 2
        with pytest.raises(icefarm.NoSuchAgentError, match="`icefarm agents` lists them"):
            olga.operator.restart("bench", "nosuch")


def test_a_rolling_restart_of_a_busy_farm_loses_nothing(tmp_path: Path, circuits: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    ended: list[icefarm.ReservationEnded | icefarm.BoardFailed] = []
    with (
        a_farm(tmp_path, port, "--boards", "4", "--agents", "2"),
        icefarm.Client(url, name="ann") as ann,
        ann.reserve(4) as held,
        ThreadPoolExecutor(1) as beside,
    ):
        ann.on(icefarm.ReservationEnded, ended.append)
        ann.on(icefarm.BoardFailed, ended.append)
        rolling = beside.submit(restart_one_after_the_other, url)
        asked = 0

        def until_restarted() -> Iterator[Path]:
            nonlocal asked
            while not rolling.done():
                asked += 1
                yield circuits / "pulse_5khz.bin"

        results = list(held.evaluate(until_restarted()))
        assert rolling.result() == ["bench-1", "bench-2"]
        assert sorted(result.index for result in results) == list(range(asked))
        assert [result.error for result in results if result.error is not None] == []
        assert not ended
        assert len(held) == 4
        until(lambda: [board.status for board in held.boards] == ["ready"] * 4)
        assert (tmp_path / "up.txt").read_text().count("was asked to restart") == 2


def restart_one_after_the_other(url: str) -> list[str]:
    """Restart each agent of a farm when the one before is back; return their names."""
    with icefarm.Client(url, name="olga") as olga:
        names = [agent.name for agent in olga.agents()]
        for name in names:
            boot = boot_of(olga, name)
            olga.operator.restart(name, deadline=1)
            until(lambda name=name, boot=boot: boot_of(olga, name) not in (None, boot))  # type: ignore[misc]
            until(lambda name=name: status_of(olga, name) is AgentStatus.ONLINE)  # type: ignore[misc]
        return names


def boot_of(client: icefarm.Client, agent: str) -> str | None:
    return {found.name: found.boot_id for found in client.agents()}.get(agent)


def test_a_board_is_started_anew_forgotten_and_noted(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder, circuits: Path
) -> None:
    with ann_and_olga(mosquitto) as (ann, olga):
        held = ann.reserve(boards=["bench-1"])
        until(lambda: statuses_of(recorder, "bench-1")[-1:] == ["ready"])
        for act in (olga.operator.restart_boards, olga.operator.forget):
            before = len(statuses_of(recorder, "bench-1"))
            [concerned] = act("bench/bench-1")
            assert (concerned.device, concerned.reservation) == ("bench-1", held.id)

            def is_ready_again(before: int = before) -> bool:
                told = statuses_of(recorder, "bench-1")[before:]
                return "starting" in told and told[-1] == "ready"

            until(is_ready_again)
            [result] = held.evaluate([circuits / "pulse_5khz.bin"])
            assert result.error is None
        # She may hear a moment later that it is back.
        until(lambda: len(olga.boards()) == 2)
        [_, other] = olga.boards()
        olga.operator.note(other, text="its USB cable is loose")
        until(lambda: [board.note for board in ann.boards()] == [None, "its USB cable is loose"])
        olga.operator.note(other, text="")
        until(lambda: [board.note for board in ann.boards()] == [None, None])
        operations = [entry.operation for entry in olga.operator.audit()]
        assert operations == ["note", "note", "forget", "restart_devices"]


def statuses_of(recorder: Recorder, board: str) -> list[str | None]:
    """All that its agent has told so far; None for its removal."""
    messages = [recorded.message for recorded in recorder.of(DeviceStateTopic, device=board)]
    return [message.status if message else None for message in messages]


def test_what_an_agent_that_is_away_has_left_is_forgotten(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    farm.kill("agent-bench")
    with icefarm.Client(mosquitto.url, name="olga") as olga:
        until(lambda: {board.status for board in olga.boards()} == {"away"})
        # Control hears of it from the same will, but perhaps a moment after the client.
        until(lambda: free_boards(olga) == 0)
        olga.operator.forget("bench-1")
        until(lambda: [board.name for board in olga.boards()] == ["bench-2"])
    until(lambda: statuses_of(recorder, "bench-1")[-1] is None)
