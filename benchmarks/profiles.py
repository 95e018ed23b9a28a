"""What took the time of processes that ran under cProfile."""

import pstats
from pathlib import Path

from rich.console import Console
from rich.table import Table

_SHOWN = 15


def print_profiles(directory: Path) -> None:
    """For each profile, the functions in which most time was spent, without what they called.

    Waiting for the network is in there too, as `poll`: where it is much, the process is not what
    limits the figure.
    """
    console = Console()
    for file in sorted(directory.glob("*.pstats")):
        stats = pstats.Stats(str(file)).get_stats_profile()
        table = Table("function", "calls", "own s", "with callees s", title=file.stem)
        for column in table.columns[1:]:
            column.justify = "right"
        # By name alone, functions of one name in different files would replace each other.
        table.caption = f"{stats.total_tt:.1f} s in all"
        for name, calls, own, with_callees in _costliest(file):
            table.add_row(name, f"{calls:,}", f"{own:.2f}", f"{with_callees:.2f}")
        console.print(table)


def _costliest(file: Path) -> list[tuple[str, int, float, float]]:
    # `stats` is what pstats documents nowhere but prints: by (file, line, function).
    entries: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    entries = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    by_own = sorted(entries.items(), key=lambda entry: entry[1][2], reverse=True)
    return [
        (f"{'/'.join(Path(path).parts[-2:])}:{line} {function}", calls, own, with_callees)
        for (path, line, function), (_, calls, own, with_callees, _) in by_own[:_SHOWN]
    ]
