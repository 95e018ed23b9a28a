"""What a circuit does on the measured pin, and what instruments would read there."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

CLOCK_HERTZ = 48_000_000
TICKS_PER_SECOND = 2 * CLOCK_HERTZ
"""Time is counted in half clock cycles, since a circuit may use both edges.

Tick 0 is the end of configuration, with the clock low; it rises at every odd tick.
"""

ADC_FULL_SCALE = 4095
"""The reading of a 12-bit converter at the supply voltage."""


@dataclass(frozen=True)
class Waveform:
    """The level of the measured pin over time, in ticks of half a cycle of the 48 MHz clock.

    `changes` are the ticks, ascending, at which the level flips, beginning from `initial`. With a
    period, the changes from tick `prefix` to `prefix + period` repeat for ever after, which has
    been proved by the state of the whole circuit. Without one (None), nothing is known about the
    time after tick `prefix`, where the simulation stopped.
    """

    initial: int
    changes: tuple[int, ...]
    prefix: int
    period: int | None

    @property
    def exact(self) -> bool:
        """Whether the waveform is known for all time, not only for the simulated window."""
        return self.period is not None

    def pulses(self, seconds: float = 1.0) -> int:
        """How many rising edges there are in the first `seconds` after configuration.

        Exact where the waveform is; otherwise, beyond the simulated window, the window's rate
        times the time, rounded to the nearest.
        """
        ticks = int(_fraction(seconds) * TICKS_PER_SECOND)
        known = self.prefix + (self.period or 0)
        if ticks <= known:
            return self._rises_before(ticks)
        if self.period is None:
            return (2 * self._rises_before(known) * ticks + known) // (2 * known)
        repetitions, rest = divmod(ticks - self.prefix, self.period)
        before = self._rises_before(self.prefix)
        in_period = self._rises_before(known) - before
        in_rest = self._rises_before(self.prefix + rest) - before
        return before + repetitions * in_period + in_rest

    def samples(self, count: int, interval: float) -> list[int]:
        """The level as 12-bit readings (0 or 4095) at 0, `interval`, 2 * `interval` ... seconds.

        Where only a window was simulated, later times read the window again from its beginning.
        """
        step = _fraction(interval) * TICKS_PER_SECOND
        return [ADC_FULL_SCALE * self._level(int(number * step)) for number in range(count)]

    def _rises_before(self, tick: int) -> int:
        """Rising edges at ticks less than this one, within what was simulated."""
        flips = bisect_left(self.changes, tick)
        # The levels alternate, so every other change is a rise: the first if it began low.
        return flips // 2 if self.initial else (flips + 1) // 2

    def _level(self, tick: int) -> int:
        if self.period is None:
            tick %= self.prefix
        elif tick >= self.prefix:
            tick = self.prefix + (tick - self.prefix) % self.period
        return (self.initial + bisect_right(self.changes, tick)) % 2

    def to_json(self) -> dict[str, Any]:
        """A JSON object; changes are stored as distances, which are short."""
        distances = [later - earlier for earlier, later in pairwise((0, *self.changes))]
        return {
            "initial": self.initial,
            "distances": distances,
            "prefix": self.prefix,
            "period": self.period,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Waveform":
        """Read what `to_json` wrote. Raises KeyError or TypeError for anything else."""
        changes = tuple(accumulate(value["distances"]))
        return Waveform(value["initial"], changes, value["prefix"], value["period"])


def _fraction(seconds: float) -> Fraction:
    """The decimal number that was meant: 0.00001 s is 960 ticks, not a little less."""
    return Fraction(seconds).limit_denominator(10**15)
