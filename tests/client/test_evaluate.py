"""Evaluations against a farm of virtual boards, with real bitstreams."""

import asyncio
import gc
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support.processes import Processes
from support.recorder import Recorder
from support.waiting import until

import icefarm
import icefarm.evaluating
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import EvaluationFinished
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    EvaluateTopic,
    EventsTopic,
    SessionStateTopic,
)


def all_available(client: icefarm.Client) -> bool:
    return all(board.status == "available" for board in client.boards())


def pulses(circuits: Path) -> dict[str, int]:
    """What each circuit was made for, by path."""
    listed = json.loads((circuits / "circuits.json").read_text())
    return {str(circuits / circuit["file"]): circuit["pulses"] for circuit in listed}


def test_bitstreams_are_measured(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, recorder: Recorder
) -> None:
    expected = pulses(circuits)
    with icefarm.Client(mosquitto.url, name="ann") as client:
        with client.reserve(2) as reservation:
            assert len(reservation.boards) == 2
            results = list(reservation.evaluate([*expected] * 3))
        assert {r.bitstream: r.pulses for r in results} == expected
        assert sorted(r.index for r in results) == list(range(3 * len(expected)))
        assert {r.board for r in results} == {board.name for board in reservation}
        until(lambda: all_available(client))
    # It said goodbye, so nothing of it stays.
    until(lambda: [r.message for r in recorder.of(SessionStateTopic, client="ann")][-1:] == [None])


def test_one_publish_serves_every_board(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, recorder: Recorder
) -> None:
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(4) as reservation,
    ):
        bitstream = circuits / "pulse_1khz.bin"
        results = list(reservation.evaluate([bitstream], on_every_board=True))
    assert [r.pulses for r in results] == [1000] * 4
    assert {r.board for r in results} == {board.name for board in reservation}
    # It hears of what was sent before it hears of the results.
    until(lambda: _finished(recorder) == 4)
    assert len(recorder.of(EvaluateTopic)) == 1


def test_a_bitstream_that_cannot_be_measured_is_a_result_with_an_error(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    good = (circuits / "pulse_5khz.bin").read_bytes()
    # The same every time, and without the preamble of an iCE40's bitstream.
    noise = bytes((n * 7919) % 251 for n in range(len(good)))
    bad = [good[:50_000], b"", noise, good]
    with (
        icefarm.Client(mosquitto.url) as client,
        client.reserve(1) as reservation,
    ):
        results = list(reservation.evaluate(bad))
    assert [r.index for r in results] == [0, 1, 2, 3]
    assert [type(r.error) for r in results] == [icefarm.InvalidBitstreamError] * 3 + [type(None)]
    for result, words in zip(results, ("50,000 bytes.*cut short", "empty", "iCE40"), strict=False):
        assert re.search(words, str(result.error))
    assert results[3].pulses == 5000


def test_variance_with_its_waveform(farm: Processes, mosquitto: Mosquitto, circuits: Path) -> None:
    with (
        icefarm.Client(mosquitto.url) as client,
        client.reserve(1, behaviour="variance", arguments={"waveform": True}) as reservation,
    ):
        [fast, silent] = reservation.evaluate(
            [circuits / "pulse_20khz.bin", circuits / "silent.bin"]
        )
    assert fast.waveform is not None
    assert set(fast.waveform) == {0, 4095}
    assert len(fast.waveform) == 500
    steps = sum(abs(b - a) for a, b in zip(fast.waveform, fast.waveform[1:], strict=False))
    assert fast.variance == steps / 500
    assert (silent.variance, silent.waveform) == (0, (0,) * 500)


def test_work_is_made_while_it_is_done(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    """An endless experiment: what is asked for next depends on what has come."""
    bitstream = (circuits / "pulse_1khz.bin").read_bytes()
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bitstream

    with (
        icefarm.Client(mosquitto.url) as client,
        client.reserve(1) as reservation,
    ):
        for seen, result in enumerate(reservation.evaluate(endless()), 1):
            assert result.pulses == 1000
            # No more is read than fits the board's credit.
            assert made - seen <= 3
            if seen == 10:
                break


def test_an_evaluation_ends_with_the_reservation(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        icefarm.Client(mosquitto.url, name="ann") as other,
    ):
        held = client.reserve(1, keep=True)

        def endless() -> Iterator[Path]:
            while True:
                yield circuits / "pulse_1khz.bin"

        results = held.evaluate(endless())
        next(results)
        other.release(held.id)
        with pytest.raises(icefarm.ReservationEndedError, match="is over: released"):
            list(results)


@pytest.mark.parametrize("when_lost", ["move", "fail"])
def test_what_a_lost_board_had_moves_or_fails_and_the_others_go_on(
    farm: Processes,
    mosquitto: Mosquitto,
    circuits: Path,
    recorder: Recorder,
    when_lost: Literal["move", "fail"],
) -> None:
    second = farm.agent("second", boards=2)
    bitstream = circuits / "pulse_1khz.bin"
    with icefarm.Client(mosquitto.url) as client:
        client.wait_until_available(6, timeout=30)
        with client.reserve(boards=["bench-1", "second-1"], board_grace=1) as reservation:
            results = reservation.evaluate([bitstream] * 40, when_lost=when_lost)
            seen = [next(results) for _ in range(6)]
            # From here on its board measures nothing, but is still sent all that it may have.
            second.send_signal(signal.SIGSTOP)
            seen += [next(results) for _ in range(10)]
            farm.kill("agent-second")
            seen += results
            assert [b.name for b in reservation] == ["bench-1"]
            # It comes back too late for this holder.
            farm.agent("second", boards=2)
            until(lambda: [b.status for b in client.boards()].count("available") == 5)
            # It had what came while it was away, and hears no more of this reservation.
            until(lambda: not _is_refused(reservation, bitstream, farm, recorder))
    assert sorted(r.index for r in seen) == list(range(40))
    lost = [r for r in seen if r.error is not None]
    if when_lost == "move":
        assert not lost
        assert {r.board for r in seen[-5:]} == {"bench-1"}
        return
    assert 1 <= len(lost) <= 3
    assert {str(r.error) for r in lost} == {"the board 'second-1' is lost: agent gone"}
    assert {type(r.error) for r in lost} == {icefarm.BoardLostError}


def _is_refused(
    reservation: icefarm.Reservation, bitstream: Path, farm: Processes, recorder: Recorder
) -> bool:
    """Whether the agent that does not serve it any more hears of a bitstream."""
    assert reservation.board().measure(bitstream).pulses == 1000
    last = recorder.of(EvaluateTopic)[-1].topic
    assert isinstance(last, EvaluateTopic)
    return f"/{last.evaluation}:" in farm.output("agent-second")


def test_an_agent_that_comes_back_in_time_goes_on_with_the_work(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    farm.agent("second", boards=2)
    bitstream = circuits / "pulse_1khz.bin"
    with icefarm.Client(mosquitto.url) as client:
        client.wait_until_available(6, timeout=30)
        with client.reserve(boards=["second-1", "second-2"]) as reservation:
            results = reservation.evaluate([bitstream] * 20)
            seen = [next(results) for _ in range(6)]
            farm.kill("agent-second")
            farm.agent("second", boards=2)
            seen += results
            assert [b.name for b in reservation] == ["second-1", "second-2"]
    assert sorted(r.index for r in seen) == list(range(20))
    assert {r.pulses for r in seen} == {1000}


async def test_nothing_is_lost_when_boards_change_in_the_middle(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    async with (
        icefarm.AsyncClient(mosquitto.url, name="ann") as client,
        client.reserve(2) as held,
    ):
        results = held.evaluate([circuits / "pulse_1khz.bin"] * 40)
        seen = [await anext(results)]
        for behaviour in ("variance", "pulsecount"):
            await held.change(behaviour, boards=held.boards[:1])
            seen += [await anext(results) for _ in range(4)]
        seen += [result async for result in results]
    assert sorted(result.index for result in seen) == list(range(40))
    assert [result.error for result in seen if result.error is not None] == []


async def test_a_result_comes_although_the_client_was_away(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, recorder: Recorder
) -> None:
    async with (
        icefarm.AsyncClient(mosquitto.url, name="ann", grace=20) as client,
        client.reserve(1) as reservation,
    ):
        results = reservation.evaluate([circuits / "pulse_1khz.bin"] * 6)
        # The agent has its bitstreams, and measures none before the cut.
        agent = farm.pid("agent-bench")
        os.kill(agent, signal.SIGSTOP)
        first = asyncio.ensure_future(anext(results))
        await asyncio.to_thread(until, lambda: len(recorder.of(EvaluateTopic)) == 3)
        # Cut as a network does it: nobody is told, and the results come meanwhile.
        mqtt = client._session.connection._keeper.now
        assert mqtt is not None
        client._session.connection._keeper._up.clear()
        mqtt._client._sock_close()
        os.kill(agent, signal.SIGCONT)
        await asyncio.to_thread(until, lambda: _finished(recorder) >= 2)
        mqtt.lost.set_exception(ConnectionError("cut"))
        seen = [await first]
        seen += [result async for result in results]
    assert sorted(r.index for r in seen) == list(range(6))
    events = [r.message for r in recorder.of(EventsTopic)]
    assert all(e.measurement for e in events if isinstance(e, EvaluationFinished))


def test_results_that_are_left_half_way_are_no_trouble(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client, client.reserve(1) as held:
        results = held.evaluate([circuits / "pulse_1khz.bin"] * 3)
        assert next(results).pulses == 1000
    # Python makes a warning, and pytest an error, of what goes wrong in here.
    del results
    gc.collect()


def _finished(recorder: Recorder) -> int:
    events = [r.message for r in recorder.of(EventsTopic)]
    return sum(isinstance(event, EvaluationFinished) for event in events)


def test_bitstreams_go_to_the_boards_that_they_name(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    slow, fast = circuits / "pulse_1khz.bin", (circuits / "pulse_20khz.bin").read_bytes()
    with icefarm.Client(mosquitto.url) as client, client.reserve(4) as held:
        one, two, three, _ = held
        # All of the first board's come first; the others do not wait for it.
        pairs: list[icefarm.Item] = [(slow, one)] * 20
        pairs += [(fast, [two, three.name]), (fast, [two, three]), (fast, (two, three)), slow]
        seen = list(held.evaluate(pairs))
        with pytest.raises(icefarm.NotHolderError, match="'bench-9' is not in the reservation"):
            list(held.evaluate([(slow, "bench-9")]))
        with pytest.raises(icefarm.InvalidRequestError, match="paired with no board"):
            list(held.evaluate([(slow, [])]))
        with pytest.raises(icefarm.InvalidRequestError, match="put a single one in a list"):
            list(held.evaluate(str(slow)))
        with pytest.raises(icefarm.InvalidRequestError, match="17 is no bitstream"):
            list(held.evaluate([17]))  # type: ignore[list-item]
    where = sorted((r.index, r.board, r.pulses) for r in seen)
    assert where[:20] == [(n, one.name, 1000) for n in range(20)]
    assert where[20:26] == [(n, board.name, 20_000) for n in (20, 21, 22) for board in (two, three)]
    assert len(where) == 27
    order = [r.board for r in seen]
    assert order.index(two.name) < 20
    assert order.index(three.name) < 20


def test_a_generation_is_made_when_the_one_before_has_come(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    """One iterator makes all of them, and says None while results are missing."""
    bitstream = circuits / "pulse_1khz.bin"
    come: list[int] = []
    born: list[int] = []

    def generations() -> Iterator[Path | None]:
        for number in range(3):
            for _ in range(8):
                yield bitstream
            while len(come) < 8 * (number + 1):
                yield None
            born.append(len(come))

    with icefarm.Client(mosquitto.url) as client, client.reserve(4) as held:
        for result in held.evaluate(generations()):
            come.append(result.index)
        with pytest.raises(icefarm.InvalidRequestError, match="nothing would ever come"):
            list(held.evaluate([bitstream, None, None]))
    assert sorted(come) == list(range(24))
    assert born == [8, 16, 24]


async def test_an_asynchronous_iterator_may_wait_for_results(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    come: asyncio.Queue[icefarm.Result] = asyncio.Queue()

    async def generations() -> AsyncIterator[Path]:
        for _ in range(3):
            for _ in range(5):
                yield circuits / "pulse_5khz.bin"
            for _ in range(5):
                await come.get()

    async with icefarm.AsyncClient(mosquitto.url) as client, client.reserve(2) as held:
        async for result in held.evaluate(generations()):
            come.put_nowait(result)
            assert result.pulses == 5000
    assert come.empty()


async def test_an_iterator_that_was_slow_to_say_none_is_asked_again(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    """It may have looked before the last result was yielded, and answered after it."""
    come = asyncio.Event()

    async def late() -> AsyncIterator[Path | None]:
        yield circuits / "pulse_1khz.bin"
        await come.wait()
        yield None
        yield circuits / "pulse_5khz.bin"

    pulses = []
    async with icefarm.AsyncClient(mosquitto.url) as client, client.reserve(1) as held:
        async for result in held.evaluate(late()):
            pulses.append(result.pulses)
            come.set()
    assert pulses == [1000, 5000]


async def test_a_bitstream_that_was_lost_on_the_way_is_sent_again(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icefarm.evaluating, "SILENCE", 0.5)
    async with icefarm.AsyncClient(mosquitto.url) as client, client.reserve(1) as held:
        connection = client._session.connection
        publish, lost = connection.publish, list[Topic]()

        async def lose_one(topic: Topic, *rest: Any, **more: Any) -> None:
            if isinstance(topic, EvaluateTopic) and not lost:
                lost.append(topic)
            else:
                await publish(topic, *rest, **more)

        monkeypatch.setattr(connection, "publish", lose_one)
        seen = [r async for r in held.evaluate([circuits / "pulse_1khz.bin"] * 5)]
    assert len(lost) == 1
    assert sorted(r.index for r in seen) == list(range(5))
    assert {r.pulses for r in seen} == {1000}


async def test_several_evaluations_share_the_boards(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    bitstream = circuits / "pulse_1khz.bin"
    async with icefarm.AsyncClient(mosquitto.url) as client, client.reserve(2) as held:
        long = held.evaluate([bitstream] * 60)
        seen = [await anext(long)]
        rest = asyncio.create_task(_all(long))
        # A board's own measurements do not wait for the long evaluation to end.
        measured = await asyncio.gather(*(board.measure(bitstream) for board in held))
        assert not rest.done()
        assert [(r.board, r.pulses) for r in measured] == [(b.name, 1000) for b in held]
        seen += await rest
        [board, _] = held
        with pytest.raises(icefarm.InvalidBitstreamError, match="the bitstream is empty"):
            await board.measure(b"")
        await board.release()
        with pytest.raises(icefarm.BoardLostError, match="is not in the reservation any more"):
            await board.measure(bitstream)
        with pytest.raises(icefarm.BoardLostError, match="is not in the reservation any more"):
            _ = board.behaviour
    assert sorted(r.index for r in seen) == list(range(60))


async def _all(results: AsyncIterator[icefarm.Result]) -> list[icefarm.Result]:
    return [result async for result in results]


async def test_a_board_that_is_away_gets_its_part_when_it_is_back(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    """Each bitstream on every board: one that is being changed misses none, and holds up none."""
    async with icefarm.AsyncClient(mosquitto.url) as client, client.reserve(2) as held:
        results = held.evaluate([circuits / "pulse_1khz.bin"] * 30, on_every_board=True)
        seen = [await anext(results)]
        changing = asyncio.create_task(held.boards[0].change("variance"))
        seen += [result async for result in results]
        await changing
    by_board = {b.name: sorted(r.index for r in seen if r.board == b.name) for b in held}
    assert by_board == {name: list(range(30)) for name in by_board}
    assert not [r for r in seen if r.error is not None]
