"""Reserve and release, by 1, 8 and 32 clients at once: control, and labgrid's coordinator."""

import sys
from collections import Counter

from benchmarks import labgrid
from benchmarks.farm import Place, reported_devices, running_control, running_servers
from benchmarks.load import Load, put_load
from benchmarks.report import Figure, Target

CLIENTS = (1, 8, 32)
BOARDS = 64


async def _ours(place: Place) -> list[Load]:
    """Control's figures with each number of clients, on one farm after the other."""
    loads = []
    for clients in CLIENTS:
        # What was reserved before must not make the next figure worse.
        async with (
            running_servers(place, f"reservations-{clients}") as farm,
            reported_devices(farm.url, 1, BOARDS),
            running_control(farm) as control,
        ):

            def command(share: int, first: int, url: str = farm.url) -> list[str]:
                return [sys.executable, "-m", "benchmarks.icefarm_load", url, str(share)]

            pids = {**control.pids, **farm.server_pids}
            loads.append(await put_load(clients, command, pids, farm.logs))
    return loads


async def measure(place: Place) -> list[Figure]:
    """Cycles a second, latencies in milliseconds, CPU milliseconds per cycle, and the ratios."""
    systems = {
        "icefarm": await _ours(place),
        "labgrid": await labgrid.loads(place.directory / "labgrid", "client", CLIENTS, BOARDS),
        "labgrid_calls": await labgrid.loads(
            place.directory / "labgrid-calls", "calls", CLIENTS, BOARDS
        ),
    }
    figures = []
    for system, loads in systems.items():
        for load in loads:
            figures += _figures(system, load)
        figures.append(_failures(system, loads))
    for other in ("labgrid", "labgrid_calls"):
        for ours, theirs in zip(systems["icefarm"], systems[other], strict=True):
            figures.append(
                Figure(
                    f"ratio_to_{other}_{ours.clients}",
                    f"icefarm / {_NAMES[other]}, {_by(ours.clients)}: cycles a second",
                    ours.cycles / theirs.cycles,
                )
            )
    return figures


_NAMES = {
    "icefarm": "icefarm",
    "labgrid": "labgrid",
    "labgrid_calls": "labgrid, calls only",
}


def _by(clients: int) -> str:
    return f"{clients} client{'s' * (clients > 1)}"


def _figures(system: str, load: Load) -> list[Figure]:
    title, by = _NAMES[system], _by(load.clients)

    def figure(key: str, what: str, value: float, unit: str = "") -> Figure:
        row = f"{what}, {unit}" if unit else what
        name = f"{title}, {by}: {what}"
        return Figure(
            f"{system}_{load.clients}_{key}", name, value, unit, table=title, cell=(row, by)
        )

    return [
        figure("cycles", "reserve + release", load.cycles, "cycles/s"),
        figure("p50_ms", "reserve, p50", 1e3 * load.p50, "ms"),
        figure("p99_ms", "reserve, p99", 1e3 * load.p99, "ms"),
        *(
            figure(f"cpu_{name}_ms", f"CPU of {name}", 1e3 * seconds, "ms/cycle")
            for name, seconds in load.cpu.items()
        ),
        figure("generator_share", "busiest load generator", max(load.generators), "of a core"),
    ]


def _failures(system: str, loads: list[Load]) -> Figure:
    failures: Counter[str] = Counter()
    for load in loads:
        failures.update(load.failures)
    whats = "".join(f"; {count} x {what}" for what, count in failures.items())
    return Figure(
        f"{system}_failures",
        f"{_NAMES[system]}: failures{whats}",
        failures.total(),
        target=Target("at most", 0),
    )
