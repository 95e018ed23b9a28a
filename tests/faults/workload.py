"""What a client of the farm runs: reserve, evaluate, release, again and again, with a journal.

It may fail with an error of the library's, which says what happened; then it tries again. It ends
with any other exception, which the test finds in its log. SIGTERM ends it after its current run.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import icefarm

GRACE = 5.0
WAIT = 60.0
_PAUSE_AFTER_ERROR = 0.3


class Journal:
    """Lines of JSON, each written at once."""

    def __init__(self, directory: Path, client: str) -> None:
        name = f"{client}-{time.monotonic_ns()}-{os.getpid()}.jsonl"
        self._file = (directory / name).open("w", buffering=1)
        # The iterable that `evaluate` reads is read in the client's own thread.
        self._lock = threading.Lock()

    def write(self, event: str, **facts: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"at": time.monotonic(), "event": event, **facts}) + "\n")


class Workload:
    """Runs until it is told to stop."""

    def __init__(self, journal: Journal, circuits: Path, choose: random.Random) -> None:
        self._journal, self._choose = journal, choose
        known = json.loads((circuits / "circuits.json").read_text())
        self._circuits = [(circuits / entry["file"], entry["pulses"]) for entry in known]
        self._run = 0
        self.stopping = False

    def work(self, name: str) -> None:
        while not self.stopping:
            try:
                with icefarm.Client(name=name, grace=GRACE) as farm:
                    self._journal.write("connected")
                    # Some programs try again, others begin anew.
                    while self._one_run(farm) or self._choose.random() < 0.7:
                        if self.stopping:
                            break
            except icefarm.FarmError as error:
                self._journal.write("unreachable", error=type(error).__name__, why=str(error))
                self._pause()

    def _pause(self) -> None:
        time.sleep(_PAUSE_AFTER_ERROR * self._choose.random())

    def _one_run(self, farm: icefarm.Client) -> bool:
        """Reserve, evaluate and release; False when an error of the farm's came in between."""
        choose, journal = self._choose, self._journal
        self._run += 1
        count, seconds = choose.randint(1, 3), choose.choice([3, 10, 60, 600, 600])
        wanted = [choose.choice(self._circuits) for _ in range(choose.randint(5, 30))]
        journal.write("reserving", run=self._run, count=count)
        try:
            with farm.reserve(count, wait=WAIT, duration=seconds) as held:
                journal.write(
                    "begun",
                    run=self._run,
                    reservation=held.id,
                    boards=[board.name for board in held],
                    evaluations=len(wanted),
                )
                for result in held.evaluate(self._sources([path for path, _ in wanted])):
                    self._note(result, wanted[result.index][1])
                    if choose.random() < 0.03:
                        held.extend(choose.choice([10, 60]))
                journal.write("evaluated", run=self._run)
        except icefarm.FarmError as error:
            journal.write("failed", run=self._run, error=type(error).__name__, why=str(error))
            self._pause()
            return False
        journal.write("finished", run=self._run)
        return True

    def _sources(self, paths: list[Path]) -> Iterator[Path]:
        for index, path in enumerate(paths):
            self._journal.write("accepted", run=self._run, index=index)
            yield path

    def _note(self, result: icefarm.Result, pulses: int) -> None:
        facts: dict[str, Any] = {"run": self._run, "index": result.index, "board": result.board}
        if result.error is not None:
            self._journal.write(
                "result", error=type(result.error).__name__, why=str(result.error), **facts
            )
        else:
            right = result.pulses == pulses
            self._journal.write("result", pulses=result.pulses, right=right, **facts)


def main() -> None:
    """Arguments: the client's name, the folders of journals and of circuits, the seed."""
    name, journals, circuits, seed = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    choose = random.Random(f"{seed} {name} {time.monotonic_ns()}")
    workload = Workload(Journal(Path(journals), name), Path(circuits), choose)

    def stop(number: int, frame: FrameType | None) -> None:
        workload.stopping = True

    signal.signal(signal.SIGTERM, stop)
    workload.work(name)


main()
