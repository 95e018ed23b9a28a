"""Plots of what was measured, as SVG."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from benchmarks import evaluation, reservations, scale
from benchmarks.report import Results, value_of

_SYSTEMS = {"icefarm": "iCEFARM", "labgrid": "labgrid", "labgrid_calls": "labgrid, calls only"}


def draw(results: Results, directory: Path) -> None:
    """Write a plot of each part that was measured and has one."""
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "icefarm"
    if "reservations" in results:
        _cycles(results, directory)
        _latencies(results, directory)
    if "evaluation" in results:
        _utilisation(results, directory)
    if "scale" in results:
        _scale(results, directory)


@contextmanager
def _plot(file: Path, across: str, up: str) -> Iterator[Axes]:
    canvas = Canvas(figsize=(6, 3.6), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    yield axes
    canvas.savefig(file, format="svg", metadata={"Date": None})


def _curve(results: Results, part: str, pattern: str, across: tuple[int, ...]) -> list[float]:
    """The figures of a part whose keys have each of these numbers in them."""
    values = [value_of(results, part, pattern.format(number)) for number in across]
    assert all(value is not None for value in values), (part, pattern)
    return [value for value in values if value is not None]


def _ticks(axes: Axes, across: tuple[int, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(across, [f"{number:,}" for number in across])
    axes.minorticks_off()


def _by_clients(results: Results, pattern: str, axes: Axes) -> None:
    for system, name in _SYSTEMS.items():
        values = _curve(results, "reservations", system + pattern, reservations.CLIENTS)
        axes.plot(reservations.CLIENTS, values, marker="o", label=name)
    _ticks(axes, reservations.CLIENTS)
    axes.legend()


def _cycles(results: Results, directory: Path) -> None:
    up = "reserve + release, cycles/s"
    with _plot(directory / "benchmark-cycles.svg", "concurrent clients", up) as axes:
        _by_clients(results, "_{}_cycles", axes)
        axes.set_ylim(bottom=0)


def _latencies(results: Results, directory: Path) -> None:
    file = directory / "benchmark-latency.svg"
    with _plot(file, "concurrent clients", "reserve, p50, ms") as axes:
        _by_clients(results, "_{}_p50_ms", axes)
        axes.set_yscale("log")


def _utilisation(results: Results, directory: Path) -> None:
    with _plot(directory / "benchmark-utilisation.svg", "boards", "utilisation, %") as axes:
        values = _curve(results, "evaluation", "utilisation_{}", evaluation.BOARDS)
        axes.plot(evaluation.BOARDS, values, marker="o")
        axes.axhline(evaluation.TARGET, color="gray", linestyle="--", label="target")
        _ticks(axes, evaluation.BOARDS)
        axes.set_ylim(0, 105)
        axes.legend()


def _scale(results: Results, directory: Path) -> None:
    devices = tuple(agents * scale.PER_AGENT for agents in scale.AGENTS)
    with _plot(directory / "benchmark-scale.svg", "devices", "reserve, p50, ms") as axes:
        costs = _curve(results, "scale", "reserve_ms_{}", devices)
        lines = axes.plot(devices, costs, marker="o", label="reserve, p50")
        memory = axes.twinx()
        memory.set_ylabel("memory of control, MB")
        sizes = _curve(results, "scale", "memory_mb_{}", devices)
        lines += memory.plot(devices, sizes, marker="s", color="tab:orange", label="memory")
        axes.set_ylim(0, 1.3 * max(costs))
        memory.set_ylim(0, 1.3 * max(sizes))
        _ticks(axes, devices)
        axes.legend(handles=lines, loc="lower right")
