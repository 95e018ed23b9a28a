"""Draw how fit the circuits became, and how many results came each second.

    python examples/evolution/plot.py evolution.jsonl evolution.svg --disturbances what.jsonl

The file of disturbances has a line such as {"what": "broker restarted", "began": 1767225600.0,
"ended": 1767225602.5} for each, in seconds since 1970.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _RED = "#2563eb", "#dc2626"


def draw(results: Path, picture: Path, disturbances: Path | None = None) -> None:
    """Write the picture, in the format that its name says."""
    measured = _read(results)
    start = min(one["at"] for one in measured)
    # The same results give the same file.
    mpl.rcParams["svg.hashsalt"] = "icefarm"
    figure = Figure(figsize=(9, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    _draw_fitness(upper, measured, start)
    _draw_throughput(lower, [one["at"] - start for one in measured])
    for number, disturbance in enumerate(_read(disturbances) if disturbances else ()):
        began, ended = disturbance["began"] - start, disturbance["ended"] - start
        for axes in (upper, lower):
            axes.axvspan(began, ended, color=_RED, alpha=0.2)
        # Above the axes, and above each other, as they may be close together.
        above, what = 1.02 + 0.07 * number, disturbance["what"]
        upper.text(began, above, what, color=_RED, transform=upper.get_xaxis_transform())
    dated = {"Date": None} if picture.suffix == ".svg" else {}
    figure.savefig(picture, metadata=dated)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _draw_fitness(axes: Axes, measured: list[dict[str, Any]], start: float) -> None:
    """Each circuit as a dot, and the best of each generation as a line."""
    times = [one["at"] - start for one in measured]
    fitness = [one["fitness"] for one in measured]
    axes.plot(times, fitness, ".", color="gray", alpha=0.5, label="a circuit")
    generations: dict[int, list[dict[str, Any]]] = {}
    for one in measured:
        generations.setdefault(one["generation"], []).append(one)
    ends = [max(one["at"] for one in generation) - start for generation in generations.values()]
    best = [max(one["fitness"] for one in generation) for generation in generations.values()]
    axes.plot(ends, best, "o-", markersize=4, color=_BLUE, label="the best of a generation")
    axes.set_ylabel("fitness")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)


def _draw_throughput(axes: Axes, times: list[float]) -> None:
    seconds = range(int(max(times)) + 2)
    axes.hist(times, bins=list(seconds), color=_BLUE)
    axes.set_ylabel("results in a second")
    axes.set_xlabel("seconds since the first result")
    axes.grid(alpha=0.3)


def main(
    results: Path, picture: Path, disturbances: Annotated[Path | None, typer.Option()] = None
) -> None:
    """Draw the results of an evolution."""
    draw(results, picture, disturbances)


if __name__ == "__main__":
    typer.run(main)
