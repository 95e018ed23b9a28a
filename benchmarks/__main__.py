"""Ratios, all measured in one run on one machine; a table for people, and JSON with --json."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import reservations, simulation
from benchmarks.farm import running_farm
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_control.embedded import embedded_database


async def measure(directory: Path, database: str) -> dict[str, float]:
    """All figures, by name."""
    with Mosquitto(directory / "broker", free_port()) as broker:
        round_trip = await reservations.round_trip(broker.url)
        commit = await reservations.commit(database)
        async with running_farm(broker.url, database, boards=64):
            reserve, cycles = await reservations.cycles(broker.url)
    return {
        "broker round trip, ms": 1e3 * round_trip,
        "Postgres commit, ms": 1e3 * commit,
        "reserve (p50, one client), ms": 1e3 * reserve,
        "reserve / (round trip + commit)": reserve / (round_trip + commit),
        "reserve + release cycles a second": cycles,
        **await simulation.costs(),
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="icefarm-") as temporary:
        directory = Path(temporary)
        with embedded_database(directory / "postgres") as database:
            figures = asyncio.run(measure(directory, database.url))
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)


if __name__ == "__main__":
    main()
