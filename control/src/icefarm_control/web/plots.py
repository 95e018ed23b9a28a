"""Plots as SVG: where their bars are. The templates draw them, each beside a table of the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from icefarm_control.web.views import Held, Usage

WIDTH, HEIGHT = 720, 160
"""Of the plot over time, in SVG's units."""
_LEFT, _BOTTOM, _TOP = 36, 20, 8
_ROW = 26


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
    left: int = _LEFT
    width: int = WIDTH
    height: int = HEIGHT
    floor: int = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Row:
    """One user's or board's bar."""

    y: int
    width: float
    used: Usage


@dataclass(frozen=True)
class RankPlot:
    """Who used most, or what was used most."""

    rows: list[Row]
    height: int
    width: int = WIDTH
    left: int = 180
    thick: int = 16


def over_time(held: Sequence[Held]) -> TimePlot:
    """Bars for how many boards were held on average in each part of the time."""
    step = _round_step(max((part.boards for part in held), default=0))
    top = step * max(1, math.ceil(max((part.boards for part in held), default=0) / step))
    floor = HEIGHT - _BOTTOM
    scale = (floor - _TOP) / top
    wide = (WIDTH - _LEFT) / max(len(held), 1)
    return TimePlot(
        bars=[
            Bar(
                x=round(_LEFT + number * wide + 0.5, 1),
                y=round(floor - part.boards * scale, 1),
                width=round(wide - 1, 1),
                height=round(part.boards * scale, 1),
                text=f"{part.at:%d %b %H:%M} UTC: {part.boards:.1f} boards",
            )
            for number, part in enumerate(held)
        ],
        ticks=[
            Tick(y=round(floor - number * step * scale, 1), text=f"{number * step:g}")
            for number in range(round(top / step) + 1)
        ],
    )


def _round_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most four steps; at least one board."""
    rough = max(highest / 4, 1)
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def ranked(used: Sequence[Usage]) -> RankPlot:
    """Bars for who or what was used longest."""
    plot = RankPlot(rows=[], height=_ROW * len(used))
    longest = max((usage.seconds for usage in used), default=0) or 1
    for number, usage in enumerate(used):
        width = round((plot.width - plot.left - 80) * usage.seconds / longest, 1)
        plot.rows.append(Row(y=number * _ROW, width=max(width, 1), used=usage))
    return plot
