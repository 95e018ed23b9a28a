"""How well boards are used: the share of the time in which they measure, with 1, 4 and 16 of them.

All boards are of one agent, which is the most that an agent has to do. A measurement is taken as
50 ms, which is what the board needs for it, and not as what it took: where the boards' own process
was late, that counts against the farm too.
"""

from statistics import median

from benchmarks.farm import Place, running_servers
from benchmarks.report import Figure, Target
from benchmarks.timed_boards import MEASUREMENT
from benchmarks.timed_farm import running_timed_farm

BOARDS = (1, 4, 16)
TARGET = 98
"""Percent, with the most boards."""
_BITSTREAMS_EACH = 100


async def measure(place: Place) -> list[Figure]:
    """Utilisation in percent, and what an evaluation costs in CPU milliseconds."""
    return [figure for boards in BOARDS for figure in await _with(place, boards)]


async def _with(place: Place, boards: int) -> list[Figure]:
    count = boards * _BITSTREAMS_EACH
    async with (
        running_servers(place, f"evaluation-{boards}") as farm,
        running_timed_farm(farm, agents=1, boards_each=boards) as timed,
    ):
        works, meter = await timed.evaluate(count)
    measured = sum(work.count for work in works)
    elapsed = max(work.last_end for work in works) - min(work.first_start for work in works)
    gaps = [gap for work in works for gap in work.gaps]
    busy = sum(work.busy for work in works)
    by = f"{boards} board{'s' * (boards > 1)}"

    def figure(
        key: str, what: str, value: float, unit: str, target: Target | None = None
    ) -> Figure:
        cell = (f"{what}, {unit}", by)
        name = f"{by}: {what}"
        return Figure(f"{key}_{boards}", name, value, unit, target, table="evaluation", cell=cell)

    target = Target("at least", TARGET) if boards == max(BOARDS) else None
    used = 100 * measured * MEASUREMENT / (boards * elapsed)
    return [
        figure("utilisation", "utilisation", used, "%", target),
        figure("rate", "evaluations", measured / elapsed, "1/s"),
        figure("gap_p50_ms", "result until next bitstream, p50", 1e3 * median(gaps), "ms"),
        figure("gap_max_ms", "result until next bitstream, longest", 1e3 * max(gaps), "ms"),
        figure("late_ms", "lateness of the boards", 1e3 * (busy / measured - MEASUREMENT), "ms"),
        *(
            figure(f"cpu_{name}_ms", f"CPU of {name}", 1e3 * seconds / measured, "ms/evaluation")
            for name, seconds in meter.seconds.items()
        ),
        figure("cores", "cores in use", sum(meter.seconds.values()) / meter.elapsed, "cores"),
    ]
