"""A farm under load, faults of every kind at random moments, and nothing is lost, nothing stays.

pytest tests/faults                                  # a short version
make faults                                          # 200 faults
ICEFARM_FAULTS=50 ICEFARM_FAULTS_SEED=7 pytest tests/faults/test_any_fault.py -s
"""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import icefarm
from faults.farm import CLIENTS, PARTS, FaultFarm
from faults.kinds import all_kinds
from faults.network import Loopback, Namespaces, Network, why_no_namespaces
from faults.plan import draw, inject
from faults.report import crashes, summary, tracebacks
from faults.watch import MOST_GROWTH, Watch, disagreements, unrest

FAULTS = int(os.environ.get("ICEFARM_FAULTS", "23"))
SEED = int(os.environ.get("ICEFARM_FAULTS_SEED") or random.SystemRandom().getrandbits(32))
_SERVED_AGAIN = 90.0
_QUIET_AGAIN = 60.0


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[FaultFarm]:
    """A farm without clients, each part in a network of its own where that is possible."""
    # A short path: Postgres' socket is in it, and may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="icefarm-faults-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        network: Network = Loopback()
        if why_no_namespaces() is None:
            network = stack.enter_context(Namespaces(PARTS))
        farm = FaultFarm(directory, network, SEED)
        # What was said and done stays where pytest keeps its folders for a while.
        for kept in ("logs", "journals"):
            stack.callback(shutil.copytree, directory / kept, tmp_path / kept)
        stack.callback(farm.remove_shared_memory)
        stack.callback(farm.supervisor.end_all, farm.parts.values())
        farm.start()
        yield farm


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


# A database that is killed while psycopg connects leaves it with a connection that nobody has yet.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function BaseConnection.__del__:"
    "pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.timeout(300 + 10 * FAULTS)
def test_a_farm_outlives_any_fault(farm: FaultFarm, tmp_path: Path) -> None:
    kinds = all_kinds()
    usable = [kind for kind in kinds if kind.why_not is None]
    print(f"\n{FAULTS} faults; to repeat this run: ICEFARM_FAULTS_SEED={SEED}; logs: {tmp_path}")
    plan = draw(usable, FAULTS, random.Random(SEED))
    faults: list[str] = []
    with Watch(farm) as watch:
        assert within(_QUIET_AGAIN, lambda: not unrest(watch.retained(), watch.ledger)), (
            "no farm to begin on"
        )
        began = time.monotonic()
        farm.start_clients()
        everybody = lambda: watch.journals.finished_since(began) == set(CLIENTS)  # noqa: E731
        assert within(_SERVED_AGAIN, everybody), "the clients are not served even without faults"

        injected = inject(plan, farm, print)

        began = time.monotonic()
        if not within(_SERVED_AGAIN, everybody):
            served = watch.journals.finished_since(began)
            faults.append(
                f"{_SERVED_AGAIN:g} s after the last fault only {sorted(served)} were served; "
                f"last lines of journals {progress(watch, began)}"
            )
        recovery = time.monotonic() - began
        faults += farm.supervisor.stop(farm.parts[name] for name in CLIENTS)
        faults += rest(farm, watch)
        faults += watch.ledger.overlaps()
        faults += [f"{fault} (seen first at {at})" for fault, at in list(watch.violations.items())]
        faults += [f"on the wire: {fault}" for fault in dict.fromkeys(watch.wire.broken)]
        watch.journals.look()
        faults += watch.journals.violations()
        faults += [
            f"{name} grew by {grown / 2**20:.0f} MB"
            for name, grown in watch.growth().items()
            if grown > MOST_GROWTH
        ]
        print(summary(kinds, injected, watch, farm, recovery))
    faults += farm.stop()
    faults += crashes(farm)
    faults += tracebacks(farm)
    faults += [
        f"{part.name} has left {process} behind"
        for part in farm.parts.values()
        for process in part.left_behind()
    ]
    print(f"{len(faults)} violations", *faults, sep="\n  ")
    assert not faults, "\n".join(faults)


def progress(watch: Watch, began: float) -> dict[str, str]:
    """How long each client has said nothing."""
    return {
        client: f"{at - began:+.1f} s after the last fault"
        for client, at in watch.journals.progress.items()
    }


def rest(farm: FaultFarm, watch: Watch) -> list[str]:
    """What is wrong with the farm when nobody uses it any more, and when somebody does."""
    if not within(_QUIET_AGAIN, lambda: not unrest(watch.retained(), watch.ledger)):
        return unrest(watch.retained(), watch.ledger)
    faults: list[str] = []

    def hold() -> None:
        with icefarm.Client(farm.mosquitto.url, name="last") as client, client.reserve(4):
            same = lambda: not disagreements(watch.retained(), watch.ledger.truth())  # noqa: E731
            if not within(_QUIET_AGAIN, same):
                faults.extend(disagreements(watch.retained(), watch.ledger.truth()))

    # A thread of the client's is where the thread that starts it is.
    with ThreadPoolExecutor(1, initializer=farm.network.enter) as pool:
        pool.submit(hold).result()
    return faults
