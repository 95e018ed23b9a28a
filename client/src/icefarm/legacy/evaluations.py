"""What the older package's scripts evaluate, and what they get for it."""

import uuid
from collections.abc import Iterable
from os import PathLike
from typing import Any, Self, TypeVar

import icefarm.results
from icefarm.errors import FarmError

Path = str | PathLike[str]

_Item = TypeVar("_Item")


class Evaluation:
    """A bitstream and the boards that measure it.

    Raises:
        ValueError: no board is named.
    """

    def __init__(self, serials: str | Iterable[str], filepath: Path) -> None:
        # The older package took a string for its letters, while its guide gave one serial so.
        self.serials = frozenset([serials] if isinstance(serials, str) else serials)
        """The names of the boards."""
        if not self.serials:
            raise ValueError(f"an evaluation of {filepath} names no board")
        self.filepath = filepath
        """The bitstream's file."""
        self.id = str(uuid.uuid4())
        """Tells this evaluation from all others."""

    def __str__(self) -> str:
        return f"{self.filepath} on {', '.join(sorted(self.serials))}"


class PulseCountEvaluation(Evaluation):
    """An evaluation whose result is the pulses of one second."""


class VarMaxEvaluation(Evaluation):
    """An evaluation whose result is the variance, with the waveform where that was asked for."""


class EvaluationFailed:
    """Stands, itself, where a value would be that could not be had: `value is EvaluationFailed`."""


class Result(tuple[str, Any, Any]):
    """One bitstream on one board, to be unpacked as up to 0.1.15, or read by name as in 0.1.16.

    As a tuple it is the board, the evaluation (of `evaluateBitstreams`, its path) and the value.
    """

    serial: str
    """The board's name."""
    evaluation: Evaluation
    """What was evaluated."""
    value: Any
    """Pulses (an int), variance (a float), `[variance, readings]` where the waveform was asked for,
    or `EvaluationFailed`."""
    error: FarmError | None
    """Why it failed, else None."""

    def __new__(
        cls,
        serial: str,
        evaluation: Evaluation,
        value: Any,
        error: FarmError | None = None,
        *,
        as_path: bool = False,
    ) -> Self:
        """Make one; `as_path` puts the path where the evaluation is."""
        middle = evaluation.filepath if as_path else evaluation
        result = super().__new__(cls, (serial, middle, value))
        result.serial, result.evaluation = serial, evaluation
        result.value, result.error = value, error
        return result

    def __str__(self) -> str:
        return f"{self.evaluation.filepath} on {self.serial}: {self.value}"


def value_of(result: icefarm.results.Result) -> Any:
    """What the older package gave for a measurement."""
    if result.error is not None:
        return EvaluationFailed
    if result.pulses is not None:
        return result.pulses
    if result.waveform is not None:
        return [result.variance, list(result.waveform)]
    return result.variance


def batch(items: Iterable[_Item], amount: int) -> list[list[_Item]]:
    """Deal items out to `amount` lists, one after another."""
    dealt = list(items)
    return [dealt[first::amount] for first in range(amount)]
