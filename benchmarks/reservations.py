"""Reserve and release, by 1, 8 and 32 clients at once: control, and labgrid's coordinator.

Both run all the time, and are put under load in turn, so that what else this machine does meets
one as much as the other.
"""

import statistics
import sys
from collections import Counter
from functools import reduce
from operator import add

from benchmarks import floors
from benchmarks.farm import Place, running_reported_farm
from benchmarks.labgrid import running_labgrid
from benchmarks.load import Load, put_load
from benchmarks.report import Figure, Target

CLIENTS = (1, 8, 32)
BOARDS = 64
_TURNS = 2

_NAMES = {"icefarm": "icefarm", "labgrid": "labgrid", "labgrid_calls": "labgrid, calls only"}
"""The systems: labgrid as its own client uses it, and without what that could leave out."""
_TARGETS = {("labgrid", 1): Target("at least", 1), ("labgrid", 32): Target("at least", 15)}
"""Of our cycles a second over another system's, by that and the number of clients."""


async def _loads(place: Place) -> tuple[dict[str, list[Load]], list[float]]:
    """By system, with each number of clients; and the floor of a request, in each turn."""
    turns: dict[tuple[str, int], list[Load]] = {}
    floor = []
    async with (
        running_reported_farm(place, "reservations", boards=BOARDS) as (farm, control),
        running_labgrid(place.directory / "labgrid", BOARDS) as labgrid,
    ):

        def ours(share: int, first: int) -> list[str]:
            return [sys.executable, "-m", "benchmarks.icefarm_load", farm.url, str(share)]

        pids = {**control.pids, **farm.server_pids}
        for _ in range(_TURNS):
            floor.append(await floors.of_a_request(farm))
            for clients in CLIENTS:
                for system, load in (
                    ("icefarm", await put_load(clients, ours, pids, farm.logs)),
                    ("labgrid", await labgrid.load("client", clients, farm.logs)),
                    ("labgrid_calls", await labgrid.load("calls", clients, farm.logs)),
                ):
                    turns.setdefault((system, clients), []).append(load)
    loads = {
        system: [reduce(add, turns[system, clients]) for clients in CLIENTS] for system in _NAMES
    }
    return loads, floor


async def measure(place: Place) -> list[Figure]:
    """Cycles a second, latencies in milliseconds, CPU milliseconds per cycle, and the ratios."""
    systems, floor = await _loads(place)
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
                    ours.rate / theirs.rate,
                    target=_TARGETS.get((other, ours.clients)),
                )
            )
    one, *_, many = systems["icefarm"]
    figures.append(
        Figure(
            "ratio_many_to_one",
            f"icefarm: cycles a second, {_by(many.clients)} / {_by(one.clients)}",
            many.rate / one.rate,
            target=Target("at least", 1),
        )
    )
    figures.append(
        Figure(
            "ratio_to_floor",
            "icefarm, 1 client: reserve, p50 / (request and reply + commit, in the same turns)",
            one.percentile(50) / statistics.mean(floor),
            target=Target("at most", 3),
        )
    )
    return figures


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
        figure("cycles", "reserve + release", load.rate, "cycles/s"),
        figure("p50_ms", "reserve, p50", 1e3 * load.percentile(50), "ms"),
        figure("p99_ms", "reserve, p99", 1e3 * load.percentile(99), "ms"),
        *(
            figure(f"cpu_{name}_ms", f"CPU of {name}", 1e3 * seconds / load.cycles, "ms/cycle")
            for name, seconds in load.cpu.items()
        ),
        figure("generator_share", "busiest load generator", max(load.generators), "of a core"),
    ]


def _failures(system: str, loads: list[Load]) -> Figure:
    failures: Counter[str] = sum((load.failures for load in loads), Counter())
    whats = "".join(f"; {count} x {what}" for what, count in failures.items())
    return Figure(
        f"{system}_failures",
        f"{_NAMES[system]}: failures{whats}",
        failures.total(),
        target=Target("at most", 0),
    )
