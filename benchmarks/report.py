"""Figures, each with its target where it has one: as a table for people, and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Target:
    """What a figure should be: at least or at most a value."""

    bound: Literal["at least", "at most"]
    value: float

    def is_met_by(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value >= self.value if self.bound == "at least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    `key` names it for programs, `name` for people; `unit` is that of its value and its target.
    One of many that are told apart by two things has a `cell`: its row and column in the table
    with the title `table`.
    """

    key: str
    name: str
    value: float
    unit: str = ""
    target: Target | None = None
    table: str = ""
    cell: tuple[str, str] | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is as it should be; None when anything is right."""
        return None if self.target is None else self.target.is_met_by(self.value)


Results = Mapping[str, list[Figure]]
"""By part of the benchmarks."""


def value_of(results: Results, part: str, key: str) -> float | None:
    """A figure's value, if it has been measured."""
    return next((f.value for f in results.get(part, ()) if f.key == key), None)


def print_tables(results: Results) -> None:
    """Show all figures: each part's own table, and one of all that have no place in these."""
    console = Console()
    single = Table("figure", "value", "unit", "target", "met", title="iCEFARM benchmarks")
    single.columns[1].justify = "right"
    for part, figures in results.items():
        for title in dict.fromkeys(figure.table for figure in figures if figure.cell is not None):
            console.print(_table_of_cells(title, [f for f in figures if f.table == title]))
        single.add_section()
        single.add_row(f"[bold]{part}")
        for figure in figures:
            if figure.cell is None or figure.target is not None:
                target = figure.target
                single.add_row(
                    "  " + figure.name,
                    _written(figure.value),
                    figure.unit,
                    "" if target is None else f"{target.bound} {_written(target.value)}",
                    {None: "", True: "[green]yes", False: "[bold red]NO"}[figure.met],
                )
    console.print(single)


def _table_of_cells(title: str, figures: list[Figure]) -> Table:
    cells = {figure.cell: figure for figure in figures if figure.cell is not None}
    rows = dict.fromkeys(row for row, _ in cells)
    columns = dict.fromkeys(column for _, column in cells)
    table = Table("", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        shown = (cells.get((row, column)) for column in columns)
        table.add_row(row, *("" if figure is None else _cell(figure) for figure in shown))
    return table


def _cell(figure: Figure) -> str:
    value = _written(figure.value)
    return f"[bold red]{value} (NO)" if figure.met is False else value


def _written(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_document(results: Results, measured_on: Mapping[str, Any]) -> dict[str, Any]:
    """All figures by part and key, with their targets, and what each part was measured on."""
    return {
        part: {
            "measured_on": measured_on,
            "figures": {figure.key: _entry(figure) for figure in figures},
        }
        for part, figures in results.items()
    }


def _entry(figure: Figure) -> dict[str, Any]:
    entry = asdict(figure)
    del entry["key"], entry["table"], entry["cell"]
    if figure.target is None:
        del entry["target"]
    else:
        entry["met"] = figure.met
    return entry


def update(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the parts in a JSON file that were measured, and keep the others."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(".json.new")
    temporary.write_text(json.dumps(kept | dict(document), indent=2) + "\n")
    temporary.replace(path)
