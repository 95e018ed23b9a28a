"""`make bench`, or `python -m benchmarks [part ...]`: everything in one run on one machine.

Shows tables, or JSON with --json, and writes docs/benchmarks.json and docs/images/benchmark-*.svg.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from kernel.initrd import CannotBootError, check_programs

from benchmarks import (
    absence,
    dashboard,
    evaluation,
    floors,
    handover,
    plots,
    profiles,
    report,
    reservations,
    scale,
    simulation,
    streams,
    traffic,
)
from benchmarks.farm import Place
from benchmarks.processes import Profiling
from icefarm_control.embedded import embedded_database

PARTS: dict[str, Callable[[Place], Awaitable[list[report.Figure]]]] = {
    "floors": floors.measure,
    "reservations": reservations.measure,
    "handover": handover.measure,
    "absence": absence.measure,
    "evaluation": evaluation.measure,
    "traffic": traffic.measure,
    "scale": scale.measure,
    "dashboard": dashboard.measure,
    "simulation": simulation.measure,
    "streams": streams.measure,
}
_DOCS = Path(__file__).parents[1] / "docs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; else all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="run control and the agent under cProfile and show what takes their time; the "
        "figures are slower for it, so they are not written to files",
    )
    parser.add_argument("--controls", type=int, default=1, help="control processes of a farm")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


def _machine(controls: int) -> dict[str, str | int | float]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "control_processes": controls,
    }


def _all_parts() -> list[str]:
    """Those that can be measured on this machine."""
    left_out: dict[str, Exception] = {}
    try:
        check_programs()
    except CannotBootError as error:
        left_out["streams"] = error
    try:
        dashboard.check_browser()
    except dashboard.BrowserMissingError as error:
        left_out["dashboard"] = error
    for part, why in left_out.items():
        print(f"The part `{part}` is left out: {why}", file=sys.stderr)
    return [part for part in PARTS if part not in left_out]


async def _measure(place: Place, parts: list[str]) -> dict[str, list[report.Figure]]:
    """One part after the other, until all are measured or the process is to end."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return {part: await PARTS[part](place) for part in parts}


def main() -> None:
    """Measure, show and write."""
    arguments = _arguments()
    machine = _machine(arguments.controls)
    with tempfile.TemporaryDirectory(prefix="icefarm-") as temporary:
        directory = Path(temporary)
        profiling = Profiling(directory if arguments.profile else None)
        data = directory / "postgres"
        with embedded_database(data) as postgres:
            place = Place(directory, postgres, data, arguments.controls, profiling)
            try:
                results = asyncio.run(_measure(place, arguments.parts or _all_parts()))
            except asyncio.CancelledError:
                sys.exit("stopped before the end")
        document = report.as_document(results, machine)
        if arguments.json:
            print(json.dumps(document))
        else:
            report.print_tables(results)
        if arguments.profile:
            profiles.print_profiles(directory)
            return
    report.update(_DOCS / "benchmarks.json", document)
    plots.draw(results, _DOCS / "images")


if __name__ == "__main__":
    main()
