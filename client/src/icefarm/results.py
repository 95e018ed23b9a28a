"""What comes of an evaluation."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self

from icefarm.errors import FarmError, InvalidRequestError

Source = str | PathLike[str] | bytes
"""A bitstream: the path of its file, or its bytes."""


@dataclass(frozen=True)
class Bitstream:
    """A bitstream with a name to tell it by: its path as it was given, or its number."""

    index: int
    name: str
    data: bytes

    @classmethod
    def load(cls, index: int, source: Source) -> Self:
        """Read it.

        Raises:
            InvalidRequestError: the file cannot be read.
        """
        if isinstance(source, bytes):
            return cls(index, f"bitstream {index}", source)
        try:
            return cls(index, str(source), Path(source).read_bytes())
        except OSError as error:
            raise InvalidRequestError(f"cannot read {source}: {error.strerror}") from error
        except TypeError:
            raise InvalidRequestError(
                f"{source!r} is no bitstream; give a path or bytes, or a pair of that and boards"
            ) from None


@dataclass(frozen=True)
class Result:
    """One bitstream on one board: what was measured, or the error that came instead.

    Attributes:
        index: the bitstream's place among those that were given, from 0.
        bitstream: its path as it was given, or `bitstream N`.
        board: the name of the board that it was measured on.
        agent: the machine that the board is plugged into.
        pulses: rising edges in one second (behaviour `pulsecount`).
        variance: sum of absolute differences of consecutive readings over their count (behaviour
            `variance`).
        waveform: the readings, where they were asked for.
        error: why there is no measurement; it is not raised, so that the others go on.
        seconds: how long the board took.
    """

    index: int
    bitstream: str
    board: str
    agent: str
    pulses: int | None = None
    variance: float | None = None
    waveform: tuple[int, ...] | None = None
    error: FarmError | None = None
    seconds: float = 0.0

    def raise_for_error(self) -> Self:
        """The result itself, unless there is an error, which is raised."""
        if self.error is not None:
            raise self.error
        return self
