"""What took the time of processes that ran under cProfile: by package, and by function."""

import pstats
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

_Function = tuple[str, int, str]
"""File, line and name; built-in functions have the file `~`."""
_Entry = tuple[int, int, float, float, dict[_Function, tuple[int, int, float, float]]]
"""Calls without and with recursion, own seconds, seconds with callees, and the callers."""

_FUNCTIONS_SHOWN = 12
_IMPORTING = "starting (imports)"


def print_profiles(directory: Path) -> None:
    """For each profile, where the time went, without what was called from there.

    Waiting for the network is left out of it and told apart: where it is much, the process is not
    what limits the figure, or it waits for what does.
    """
    console = Console()
    for file in sorted(directory.glob("*.pstats")):
        # By function; pstats prints this, and documents no other way to have the callers.
        entries: dict[_Function, _Entry] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
        waiting = {function for function in entries if _is_waiting(function)}
        waited = sum(entries.pop(function)[2] for function in waiting)
        worked = sum(own for _, _, own, _, _ in entries.values())
        title = f"{file.stem}: {worked:.1f} s of work and {waited:.1f} s of waiting"
        packages = Table("package", "own s", "of work", title=title)
        functions = Table("function", "calls", "own s")
        for table in (packages, functions):
            for column in table.columns[1:]:
                column.justify = "right"
        for package, seconds in _by_package(entries).items():
            if seconds >= worked / 100:
                packages.add_row(package, f"{seconds:.2f}", f"{seconds / worked:.0%}")
        costliest = sorted(entries.items(), key=lambda entry: entry[1][2], reverse=True)
        for (path, line, name), (_, calls, own, _, _) in costliest[:_FUNCTIONS_SHOWN]:
            where = f"{'/'.join(Path(path).parts[-2:])}:{line} " if line else ""
            functions.add_row(f"{where}{name}", f"{calls:,}", f"{own:.2f}")
        console.print(packages, functions)


def _is_waiting(function: _Function) -> bool:
    return function[2] == "<method 'poll' of 'select.epoll' objects>"


def _by_package(entries: dict[_Function, _Entry]) -> dict[str, float]:
    """Own seconds, most first; those of a built-in function are its callers'."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in entries.items():
        if function[0] == "~" and callers:
            for caller, (_, _, from_there, _) in callers.items():
                seconds[_package(caller)] += from_there
        else:
            seconds[_package(function)] += own
    return dict(sorted(seconds.items(), key=lambda item: item[1], reverse=True))


def _package(function: _Function) -> str:
    file = function[0]
    if "importlib" in file:
        return _IMPORTING
    parts = Path(file).parts
    for folder in ("site-packages", "src", "python3.11", "python3.12", "python3.13"):
        if folder in parts:
            return parts[len(parts) - parts[::-1].index(folder)].removesuffix(".py")
    return "built in" if file in ("~", "") else Path(file).stem
