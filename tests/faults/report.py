"""What is told at the end: counts of faults, runs and evaluations, and the worst times."""

from collections import Counter, defaultdict

from faults.farm import FaultFarm
from faults.journals import Run
from faults.kinds import Kind
from faults.plan import Injected
from faults.watch import Watch

_TRACEBACK = "Traceback (most recent call last)"
_OLD_MEMORY_IN_USE = "pre-existing shared memory block"
"""What Postgres says, and then ends, while the last backends of a killed one are still ending."""


def back_to_service(injected: list[Injected], runs: list[Run]) -> dict[str, float]:
    """For each kind, the most seconds from the end of a fault until all worked together again.

    That is until the first result of a run that was asked for after the fault.
    """
    worst: dict[str, float] = defaultdict(float)
    for fault in injected:
        again = [run.measured for run in runs if run.measured and run.began > fault.ended]
        worst[fault.kind] = max(worst[fault.kind], min(again, default=float("inf")) - fault.ended)
    return worst


def summary(
    kinds: list[Kind], injected: list[Injected], watch: Watch, farm: FaultFarm, recovery: float
) -> str:
    """Many lines."""
    counts = Counter(fault.kind for fault in injected)
    runs = list(watch.journals.runs.values())
    worst = back_to_service(injected, runs)
    lines = [f"{'kind of fault':28} injected   worst back to service"]
    for kind in kinds:
        told = kind.why_not and f"skipped: {kind.why_not}"
        lines.append(
            f"{kind.name:28} {counts[kind.name]:8}   {told or f'{worst[kind.name]:.1f} s'}"
        )
    errors = Counter(run.error for run in runs if run.error)
    explicit = sum((run.explicit for run in runs), Counter[str]())
    yielded = sum(sum(run.yielded.values()) for run in runs)
    growth = watch.growth()
    lines += [
        f"faults {len(injected)}",
        f"runs {len(runs)}: {sum(run.finished for run in runs)} finished, "
        f"{sum(errors.values())} ended by {dict(errors)}, "
        f"{sum(run.ended is None for run in runs)} killed",
        f"errors outside of runs {dict(watch.journals.unreachable)}",
        f"evaluations accepted {sum(len(run.accepted) for run in runs)}, yielded {yielded}, "
        f"of these failed explicitly {sum(explicit.values())} {dict(explicit)}",
        f"evaluations lost {sum(len(run.lost()) for run in runs)}, "
        f"duplicated {sum(len(run.duplicated()) for run in runs)}",
        f"double holders {len(watch.double_holders)}",
        f"looks at the database {watch.looks - watch.looks_without_database}, "
        f"{watch.looks_without_database} in vain; results on the wire {watch.wire.results}",
        f"processes started { {part.name: len(part.pids) for part in farm.parts.values()} }",
        "most growth of memory, MB: "
        + ", ".join(f"{name} {size / 2**20:.0f}" for name, size in growth.items()),
        f"worst time back to service {max(worst.values(), default=0.0):.1f} s; "
        f"all clients served again {recovery:.1f} s after the last fault",
    ]
    return "\n".join(lines)


def crashes(farm: FaultFarm) -> list[str]:
    """Processes that ended though nobody had ended them."""
    return [
        f"{ended.part} ended by itself with exit code {ended.code}: {ended.said[-600:]}"
        for ended in farm.supervisor.ended
        if not ended.asked and _OLD_MEMORY_IN_USE not in ended.said
    ]


def tracebacks(farm: FaultFarm) -> list[str]:
    """Defects that a part has logged."""
    faults = []
    for part in farm.parts.values():
        text = part.log.read_text(errors="replace")
        for said in dict.fromkeys(text.split(_TRACEBACK)[1:]):
            faults.append(f"{part.name} logged a traceback: ...{said[:1500]}")
    return faults
