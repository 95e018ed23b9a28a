"""A device's life, on a board that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from support.waiting import until_async

from icefarm_agent.behaviours import installed_behaviours
from icefarm_agent.commands import Command
from icefarm_agent.device import NEXT, Device, left_of
from icefarm_agent.evaluations import MOST_WAITING, Evaluation
from icefarm_agent.streams import DeviceStream
from icefarm_schemas import (
    Assignment,
    DeviceState,
    DeviceStatus,
    ErrorCode,
    EvaluationFinished,
    utc_now,
)

from .scripted import ScriptedBoard, answering, default

S = DeviceStatus
BITSTREAM = bytes(104_090)
A_WAVEFORM = b"samples: " + b",".join([b"1", b"2"] * 250) + b"\n"


class Collected:
    """In the place of the outbox."""

    def __init__(self) -> None:
        self.results: list[EvaluationFinished] = []
        self.told: list[tuple[str, str]] = []
        """Other events, each with the session that it went to."""
        self.events: list[Any] = []

    async def put(self, client: str, session: str, event: Any) -> None:
        if isinstance(event, EvaluationFinished):
            self.results.append(event)
        else:
            self.told.append((event.event, session))
            self.events.append(event)

    async def wait_for(self, count: int) -> list[EvaluationFinished]:
        async def enough() -> bool:
            return len(self.results) >= count

        await until_async(enough, f"{count} results, not {len(self.results)}")
        return self.results


class Life:
    """A device that runs, and what it has said so far."""

    def __init__(self, board: ScriptedBoard) -> None:
        self.states: list[DeviceState] = []
        self.outbox = Collected()
        self.device = Device(
            "pi",
            board,
            installed_behaviours(),
            self.states.append,
            self.outbox,  # type: ignore[arg-type]
            self._no_stream,
        )

    def _no_stream(self, changed: Callable[[], None]) -> DeviceStream:
        nowhere: Any = None
        return DeviceStream(nowhere, nowhere, "pi", nowhere, changed)

    @property
    def statuses(self) -> list[DeviceStatus]:
        return [state.status for state in self.states]

    async def reaches(self, status: DeviceStatus) -> DeviceState:
        async def reached() -> bool:
            return self.statuses[-1:] == [status]

        await until_async(reached, f"{status}, not {self.statuses}")
        return self.states[-1]


@asynccontextmanager
async def living(board: ScriptedBoard) -> AsyncIterator[Life]:
    life = Life(board)
    task = asyncio.create_task(life.device.run())
    try:
        yield life
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])


def an_assignment(reservation: str = "r", seconds: float = 60, **fields: Any) -> Assignment:
    now = utc_now()
    return Assignment(
        **{
            "reservation": reservation,
            "client": "ann",
            "session": "s",
            "behaviour": "pulsecount",
            "granted_at": now,
            "expires_at": now + timedelta(seconds=seconds),
            **fields,
        }
    )


def an_evaluation(number: int) -> Evaluation:
    return Evaluation(f"e{number}", BITSTREAM, "ann", "s")


def a_board(*answers: bytes) -> ScriptedBoard:
    return ScriptedBoard({"default": default, "pulsecount": answering(*answers)})


async def test_a_whole_life() -> None:
    board = a_board(b"pulses: 1\n", b"pulses: 2\n", b"pulses: 3\n")
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        ready = await life.reaches(S.READY)
        assert (ready.reservation, ready.behaviour) == ("r", "pulsecount")
        for number in (1, 2, 1, 2, 3):
            await life.device.evaluate(an_evaluation(number))
        results = list(await life.outbox.wait_for(3))
        # The board has no more answers: a result that is asked for again is the one it gave.
        await life.device.evaluate(an_evaluation(2))
        assert (await life.outbox.wait_for(4))[3] == results[1]
        life.device.assign(None)
        free = await life.reaches(S.AVAILABLE)
        assert (free.reservation, free.behaviour) == (None, None)
    assert [r.measurement and r.measurement.pulses for r in results] == [1, 2, 3]
    assert [r.evaluation for r in results] == ["e1", "e2", "e3"]
    assert life.statuses == [S.PREPARING, S.AVAILABLE, S.STARTING, S.READY, S.CLEANING, S.AVAILABLE]
    assert board.installed == ["default", "pulsecount", "default"]
    assert life.outbox.told == [("device_ready", "s"), ("device_unbound", "s")]


async def test_what_a_device_does_is_changed_while_it_is_held() -> None:
    board = ScriptedBoard(
        {
            "default": default,
            "pulsecount": answering(b"pulses: 1\n"),
            "variance": answering(A_WAVEFORM),
        }
    )
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        first = an_assignment()
        life.device.assign(first)
        await life.reaches(S.READY)
        # Another session of the holder's and a longer lease are no reason to start again.
        life.device.assign(first.model_copy(update={"session": "other"}))
        life.device.assign(an_assignment(behaviour="variance", session="other"))

        async def changed() -> bool:
            last = life.states[-1]
            return (last.status, last.behaviour) == (S.READY, "variance")

        await until_async(changed)
        # What it knew is known still, and what waits is done by the new behaviour.
        await life.device.evaluate(an_evaluation(1))
        [result] = await life.outbox.wait_for(1)
        assert result.measurement is not None
        assert result.measurement.variance == 499 / 500
        assert result.behaviour == "variance"
    assert life.statuses[2:6] == [S.STARTING, S.READY, S.STARTING, S.READY]
    assert board.installed == ["default", "pulsecount", "variance"]
    assert life.outbox.told[:3] == [
        ("device_ready", "s"),
        ("device_unbound", "other"),
        ("device_ready", "other"),
    ]


async def test_what_is_being_measured_is_measured_again_after_a_change() -> None:
    receiving = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Waiting for bitstream transfer\n")
        await reader.readexactly(1)
        receiving.set()

    board = ScriptedBoard(
        {"default": default, "pulsecount": silent, "variance": answering(A_WAVEFORM)}
    )
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        await life.device.evaluate(an_evaluation(1))
        await receiving.wait()
        life.device.assign(an_assignment(behaviour="variance"))
        [result] = await life.outbox.wait_for(1)
    assert result.measurement is not None
    assert result.measurement.variance is not None


async def test_what_waits_at_the_end_of_a_reservation_is_answered() -> None:
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        for number in (1, 2, 3):
            await life.device.evaluate(an_evaluation(number))
        life.device.assign(None)
        results = await life.outbox.wait_for(3)
        await life.reaches(S.AVAILABLE)
    codes = {r.evaluation: r.error and r.error.code for r in results}
    assert codes == {f"e{n}": ErrorCode.RESERVATION_ENDED for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("began", "ends", "retained", "left"),
    [
        (-10, 50, True, 50),  # clocks agree, and it was read again
        (0, 60, False, 60),
        (-3600, -3540, False, 60),  # this machine's clock is an hour ahead: it comes just now
        (3600, 3660, False, 60),  # or behind
        (3600, 3660, True, 60),
        (-3600, -3540, True, -3540),  # over, or of an unknown age: control repeats it if not
    ],
)
def test_a_lease_is_as_long_as_control_gave_it_whatever_this_clock_says(
    began: float, ends: float, retained: bool, left: float
) -> None:
    now = utc_now()
    assignment = an_assignment(
        granted_at=now + timedelta(seconds=began), expires_at=now + timedelta(seconds=ends)
    )
    # The machine may be busy between the two looks at its clock.
    assert left_of(assignment, retained) == pytest.approx(left, abs=8)


async def test_a_lease_goes_on_when_its_assignment_is_read_again() -> None:
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        now = utc_now()
        past = an_assignment(
            granted_at=now - timedelta(seconds=120), expires_at=now - timedelta(seconds=60)
        )
        life.device.assign(past)
        await life.reaches(S.READY)
        life.device.assign(past, retained=True)
        assert life.device.assignment == past


async def test_a_lease_ends_without_control() -> None:
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        # However long it took to be ready.
        life.device.assign(an_assignment(seconds=0.4))
        await life.reaches(S.AVAILABLE)
        assert life.device.assignment is None
        assert S.CLEANING in life.statuses


async def test_an_extended_lease_does_not_end() -> None:
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        life.device.assign(an_assignment(seconds=4))
        # It waits for the end of the short one.
        await asyncio.sleep(0.05)
        life.device.assign(an_assignment(seconds=60))
        await asyncio.sleep(4)
        assert life.statuses[-1] is S.READY


async def test_one_holder_directly_after_another() -> None:
    board = a_board()
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment("first"))
        await life.reaches(S.READY)
        life.device.assign(None)
        life.device.assign(an_assignment("second"))

        async def second_is_ready() -> bool:
            last = life.states[-1]
            return (last.status, last.reservation) == (S.READY, "second")

        await until_async(second_is_ready)
    assert board.installed == ["default", "pulsecount", "default", "pulsecount"]


class HangingBoard(ScriptedBoard):
    """Nobody waits for it as long as for others, until it is installed anew."""

    async def install(self, firmware: str) -> None:
        self.patience = 30
        await super().install(firmware)


async def test_a_hanging_board_is_restarted_and_goes_on() -> None:
    board = HangingBoard({"default": default, "pulsecount": answering(b"pulses: 1\n")})

    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        # It answers once, then says that it waits but answers no more, until it is restarted.
        await life.device.evaluate(an_evaluation(1))
        await life.outbox.wait_for(1)
        board.patience = 0.3
        for number in (2, 3):
            await life.device.evaluate(an_evaluation(number))
        results = await life.outbox.wait_for(3)
    assert results[0].measurement is not None
    assert results[1].error is not None
    assert results[1].error.code is ErrorCode.MEASUREMENT_FAILED
    assert results[2].measurement is not None
    assert board.installed == ["default", "pulsecount", "pulsecount"]


class SlowBoard(ScriptedBoard):
    """It takes for ever to flash anything but its default firmware."""

    async def install(self, firmware: str) -> None:
        await super().install(firmware)
        if firmware == "pulsecount":
            await asyncio.Event().wait()


async def test_what_is_being_started_is_changed_or_given_up_at_once() -> None:
    board = SlowBoard(
        {"default": default, "pulsecount": answering(), "variance": answering(A_WAVEFORM)}
    )
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.STARTING)
        life.device.assign(an_assignment(behaviour="variance"))
        await life.reaches(S.READY)
        life.device.assign(an_assignment("other"))
        await life.reaches(S.STARTING)
        life.device.assign(None)
        await life.reaches(S.AVAILABLE)
    changed = [S.PREPARING, S.AVAILABLE, S.STARTING, S.STARTING, S.READY, S.CLEANING]
    given_up = [S.AVAILABLE, S.STARTING, S.CLEANING, S.AVAILABLE]
    assert life.statuses == changed + given_up


class RestlessBoard(ScriptedBoard):
    """Somebody takes it away each time that it is used."""

    async def watch(self) -> str:
        return "somebody has bound it"


async def test_a_board_that_has_to_be_put_right_again_and_again_is_broken() -> None:
    board = RestlessBoard({"default": default, "pulsecount": answering()})
    life = Life(board)
    life.device.assign(an_assignment())
    task = asyncio.create_task(life.device.run())
    broken = await life.reaches(S.BROKEN)
    task.cancel()
    await asyncio.wait([task])
    assert "again and again: somebody has bound it" in (broken.detail or "")
    assert broken.repairs == 10
    assert life.statuses.count(S.READY) == 10


async def test_a_free_board_that_is_not_as_it_should_be_is_prepared_again() -> None:
    board = a_board()
    faults = asyncio.Queue[str]()
    board.watch = faults.get  # type: ignore[method-assign]
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        faults.put_nowait("it is in its bootloader")
        await until_async(lambda: _comes_again(life))
    assert life.statuses == [S.PREPARING, S.AVAILABLE, S.PREPARING, S.AVAILABLE]
    assert life.states[-1].repairs == 1
    assert board.installed == ["default", "default"]


async def _comes_again(life: Life) -> bool:
    return life.statuses.count(S.AVAILABLE) == 2


async def test_a_board_starts_anew_when_its_holder_says_so() -> None:
    board = a_board(b"pulses: 1\n")
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        for _ in range(2):  # The second one is the same, come again.
            await life.device.command(Command("c1", "ann", "s"))
            await until_async(lambda: _answered(life, "command_finished"))
        await life.device.command(Command("c2", "ann", "s", image=b"UF2"))
        await until_async(lambda: _answered(life, "command_finished", 3))
        await life.device.evaluate(an_evaluation(1))
        [result] = await life.outbox.wait_for(1)
    assert result.measurement is not None
    assert board.installed == ["default", "pulsecount", "pulsecount"]
    finished = [event for event in life.outbox.events if event.event == "command_finished"]
    assert [(event.id, event.error and event.error.code) for event in finished] == [
        ("c1", None),
        ("c1", None),
        # Only a board with a processor can run it.
        ("c2", ErrorCode.INVALID_FIRMWARE),
    ]


async def _answered(life: Life, event: str, count: int = 1) -> bool:
    return [told for told, _ in life.outbox.told].count(event) >= count


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"behaviour": "dance"}, "no behaviour 'dance'"),
        ({"arguments": {"tempo": 3}}, "takes no arguments; it was given tempo"),
        ({"behaviour": "variance"}, "no variance"),
    ],
)
async def test_what_cannot_be_started_is_broken_until_its_holder_is_gone(
    fields: dict[str, Any], words: str
) -> None:
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment(**fields))
        broken = await life.reaches(S.BROKEN)
        assert broken.reservation == "r"
        assert words in (broken.detail or "")
        life.device.assign(None)
        await life.reaches(S.AVAILABLE)


async def test_a_board_without_default_firmware_is_broken_with_a_reason() -> None:
    async with living(ScriptedBoard({})) as life:
        broken = await life.reaches(S.BROKEN)
        assert broken.detail == "its default firmware does not run: no default"


async def test_a_board_that_fails_in_an_unknown_way_is_broken_and_no_more() -> None:
    class Unplugged(ScriptedBoard):
        async def install(self, firmware: str) -> None:
            raise OSError(5, "Input/output error")

    async with living(Unplugged({})) as life:
        broken = await life.reaches(S.BROKEN)
        assert "Input/output error" in (broken.detail or "")


async def test_too_much_work_is_refused_and_the_rest_done() -> None:
    count = MOST_WAITING + 2
    async with living(a_board(*[b"pulses: 1\n"] * count)) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        for number in range(count):
            await life.device.evaluate(an_evaluation(number))
        results = await life.outbox.wait_for(count)
    refused = [r for r in results if r.error is not None]
    assert {r.error.code for r in refused if r.error} == {ErrorCode.LIMIT_EXCEEDED}
    assert 1 <= len(refused) <= 2
    assert len({r.evaluation for r in results}) == count


async def test_a_behaviour_with_a_defect_breaks_its_board_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(self: Any, bitstream: bytes) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("icefarm_agent.behaviours.measuring.Measuring.evaluate", fail)
    async with living(a_board()) as life:
        await life.reaches(S.AVAILABLE)
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        await life.device.evaluate(an_evaluation(1))
        broken = await life.reaches(S.BROKEN)
        assert "oops" in (broken.detail or "")


def test_every_status_has_a_way_on() -> None:
    assert set(NEXT) == {None, *DeviceStatus}
    assert all(NEXT.values())


async def test_an_operator_starts_a_board_anew_whatever_it_does() -> None:
    board = a_board(b"pulses: 1\n")
    async with living(board) as life:
        await life.reaches(S.AVAILABLE)
        life.device.restart()
        expected = [S.PREPARING, S.AVAILABLE, S.PREPARING, S.AVAILABLE]

        async def twice() -> bool:
            return life.statuses == expected

        await until_async(twice, f"{expected}, not {life.statuses}")
        life.device.assign(an_assignment())
        await life.reaches(S.READY)
        life.states.clear()
        life.device.restart()
        await life.reaches(S.READY)
        assert life.statuses == [S.STARTING, S.READY]
        # That is no fault of the board's, and what it does goes on.
        assert life.states[-1].repairs == 0
        await life.device.evaluate(an_evaluation(1))
        [result] = await life.outbox.wait_for(1)
        assert result.measurement is not None
