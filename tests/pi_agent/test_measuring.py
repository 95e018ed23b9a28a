"""The dialogue with a measuring firmware, on a board that does what the test says."""

from typing import Any

import pytest

from icefarm_agent.behaviours import ArgumentsError, MeasurementError, installed_behaviours
from icefarm_agent.behaviours.pulsecount import PulseCount
from icefarm_agent.behaviours.serial import Serial
from icefarm_agent.behaviours.usbip import UsbIp
from icefarm_agent.behaviours.variance import Variance
from icefarm_agent.board import BoardError
from icefarm_schemas import ErrorCode, Measurement

from .scripted import Firmware, ScriptedBoard, answering

BITSTREAM = bytes(104_090)


async def measure(kind: type[PulseCount] | type[Variance], firmware: Firmware) -> Measurement:
    assert kind.firmware is not None
    board = ScriptedBoard({kind.firmware: firmware})
    behaviour = kind(board, {})
    try:
        await board.install(kind.firmware)
        await behaviour.start()
        return await behaviour.evaluate(BITSTREAM)
    finally:
        await behaviour.stop()
        await board.close()


async def test_pulses_are_read() -> None:
    assert await measure(PulseCount, answering(b"pulses: 7996\n")) == Measurement(pulses=7996)


async def test_variance_is_the_mean_step_between_readings() -> None:
    readings = [0, 10] * 250
    line = f"samples: {','.join(map(str, readings))}\n".encode()
    measured = await measure(Variance, answering(line))
    assert measured == Measurement(variance=499 * 10 / 500)


async def test_the_waveform_comes_when_it_is_asked_for() -> None:
    line = f"samples: {','.join(['7'] * 500)}\n".encode()
    board = ScriptedBoard({"variance": answering(line)})
    behaviour = Variance(board, {"waveform": True})
    await board.install("variance")
    await behaviour.start()
    measured = await behaviour.evaluate(BITSTREAM)
    await behaviour.stop()
    await board.close()
    assert measured == Measurement(variance=0, waveform=(7,) * 500)


@pytest.mark.parametrize(
    ("answer", "code", "words", "well"),
    [
        (
            b"Configuration failed: not an iCE40 image\n",
            ErrorCode.INVALID_BITSTREAM,
            "not an iCE40 image",
            True,
        ),
        (
            b"Watchdog timeout, 50000 bytes received of 104090\n",
            ErrorCode.MEASUREMENT_FAILED,
            "50000 bytes received",
            True,
        ),
        (b"pulses: many\n", ErrorCode.MEASUREMENT_FAILED, "makes no sense: 'pulses: many'", False),
        (b"pulses: -3\n", ErrorCode.MEASUREMENT_FAILED, "makes no sense", False),
        (b"Guru meditation\n", ErrorCode.MEASUREMENT_FAILED, "unexpected: 'Guru", False),
        (b"", ErrorCode.MEASUREMENT_FAILED, "unexpected: 'Waiting", False),
        (b"\xff\xfe\n", ErrorCode.MEASUREMENT_FAILED, "unexpected", False),
    ],
)
async def test_whatever_else_a_board_says_is_an_error_and_never_a_number(
    answer: bytes, code: ErrorCode, words: str, well: bool
) -> None:
    with pytest.raises(MeasurementError, match=words) as caught:
        await measure(PulseCount, answering(answer))
    assert caught.value.error.code is code
    assert caught.value.board_is_well is well


async def test_a_silent_board_is_given_up() -> None:
    async def hangs(reader: Any, writer: Any) -> None:
        writer.write(b"Waiting for bitstream transfer\n")

    board = ScriptedBoard({"pulsecount": hangs})
    behaviour = PulseCount(board, {})
    await board.install("pulsecount")
    await behaviour.start()
    board.patience = 0.5
    with pytest.raises(MeasurementError, match=r"said nothing|did not read") as caught:
        await behaviour.evaluate(BITSTREAM)
    assert not caught.value.board_is_well
    await behaviour.stop()
    await board.close()


async def test_a_board_that_never_asks_for_a_bitstream_does_not_start() -> None:
    async def chatters(reader: Any, writer: Any) -> None:
        writer.write(b"hello\n" * 5)

    board = ScriptedBoard({"pulsecount": chatters}, patience=0.5)
    behaviour = PulseCount(board, {})
    await board.install("pulsecount")
    with pytest.raises(BoardError, match=r"did not say 'Waiting|said nothing"):
        await behaviour.start()
    await behaviour.stop()
    await board.close()


@pytest.mark.parametrize(
    ("bitstream", "words"),
    [(b"", "is empty"), (bytes(50_000), "50,000 bytes.*cut short"), (bytes(104_091), "exactly")],
)
async def test_a_bitstream_of_the_wrong_size_is_not_sent(bitstream: bytes, words: str) -> None:
    board = ScriptedBoard({"pulsecount": answering(b"pulses: 5\n")})
    behaviour = PulseCount(board, {})
    await board.install("pulsecount")
    await behaviour.start()
    with pytest.raises(MeasurementError, match=words) as caught:
        await behaviour.evaluate(bitstream)
    assert caught.value.error.code is ErrorCode.INVALID_BITSTREAM
    # Nothing of it reached the board, which takes the next one whole.
    assert await behaviour.evaluate(BITSTREAM) == Measurement(pulses=5)
    await behaviour.stop()
    await board.close()


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (PulseCount, {"waveform": True}),
        (Variance, {"waveform": "yes"}),
        (Variance, {"waveforms": True}),
    ],
)
def test_arguments_of_another_behaviour_are_refused(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError, match="waveform"):
        kind(ScriptedBoard({}), arguments)


def test_behaviours_are_found_by_entry_point() -> None:
    ours = {"pulsecount": PulseCount, "serial": Serial, "usbip": UsbIp, "variance": Variance}
    assert installed_behaviours() == ours
