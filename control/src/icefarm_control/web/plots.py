"""The plot of boards held over time: where its bars are, in percent of the place that it has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from icefarm_control.web.views import Held

_TOP, _FLOOR = 4.0, 88.0
"""Percent from the top: of the highest line, and of zero; below it is when."""


@dataclass(frozen=True)
class Bar:
    """A rectangle, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Tick:
    """A line across the plot, at a round number of boards."""

    y: float
    text: str


@dataclass(frozen=True)
class TimePlot:
    """Boards held over time."""

    bars: list[Bar]
    ticks: list[Tick]


def over_time(held: Sequence[Held]) -> TimePlot:
    """Bars for how many boards were held on average in each part of the time."""
    highest = max((part.boards for part in held), default=0)
    step = _round_step(highest)
    steps = max(1, math.ceil(highest / step))
    scale = (_FLOOR - _TOP) / (steps * step)
    wide = 100 / max(len(held), 1)
    return TimePlot(
        bars=[
            Bar(
                x=round((number + 0.05) * wide, 2),
                y=round(_FLOOR - part.boards * scale, 2),
                width=round(0.9 * wide, 2),
                height=round(part.boards * scale, 2),
                text=f"{part.at:%d %b %H:%M} UTC: {part.boards:.1f} boards",
            )
            for number, part in enumerate(held)
        ],
        ticks=[
            Tick(y=round(_FLOOR - number * step * scale, 2), text=f"{number * step:g}")
            for number in range(steps + 1)
        ],
    )


def _round_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most four steps; at least one board."""
    rough = max(highest / 4, 1)
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
