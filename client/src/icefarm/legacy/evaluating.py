"""The older package's evaluations on the reservations that have their boards, all at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from icefarm.async_reservation import AsyncReservation
from icefarm.errors import FarmError, ReservationEndedError
from icefarm.legacy.evaluations import Evaluation, EvaluationFailed, value_of


@dataclass(frozen=True)
class Part:
    """What one reservation is to measure: evaluations, each with those of its boards."""

    reservation: AsyncReservation
    work: Sequence[tuple[Evaluation, Sequence[str]]]


@dataclass(frozen=True)
class Measured:
    """The value for an evaluation on one board, as the older package gave it."""

    serial: str
    evaluation: Evaluation
    value: object
    error: FarmError | None


async def evaluate(parts: Sequence[Part]) -> AsyncGenerator[Measured, None]:
    """Measure what all parts are about at the same time, and yield each value as it comes."""
    streams = [_measure(part) for part in parts]
    waiting = {asyncio.ensure_future(anext(stream, None)): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                measured = task.result()
                if measured is not None:
                    waiting[asyncio.ensure_future(anext(stream, None))] = stream
                    yield measured
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _measure(part: Part) -> AsyncGenerator[Measured, None]:
    """One part; what its reservation's end leaves unmeasured has failed, and the others go on."""
    missing = {
        (index, serial): evaluation
        for index, (evaluation, serials) in enumerate(part.work)
        for serial in serials
    }
    pairs = [(evaluation.filepath, serials) for evaluation, serials in part.work]
    try:
        async with aclosing(part.reservation.evaluate(pairs)) as results:
            async for result in results:
                evaluation = missing.pop((result.index, result.board))
                yield Measured(result.board, evaluation, value_of(result), result.error)
    except ReservationEndedError as error:
        for (_, serial), evaluation in missing.items():
            yield Measured(serial, evaluation, EvaluationFailed, error)
