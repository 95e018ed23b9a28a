"""What the clients' journals say: how each run went, and whether each result came exactly once."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Run:
    """One reservation and its batch of evaluations, as a client saw them."""

    client: str
    number: int
    began: float
    reservation: str | None = None
    asked: int = 0
    accepted: list[int] = field(default_factory=list)
    yielded: Counter[int] = field(default_factory=Counter)
    explicit: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    evaluated: bool = False
    """The iterator of results has come to its end."""
    finished: bool = False
    """And everything has been given back."""
    error: str | None = None
    measured: float | None = None
    """When its first result without an error came."""
    ended: float | None = None

    @property
    def name(self) -> str:
        """To find it in the journals."""
        return f"{self.client}, run {self.number}, reservation {self.reservation}"

    def lost(self) -> list[int]:
        """Evaluations of a run that ended in order without their result."""
        if not self.evaluated:
            return []
        return [index for index in range(self.asked) if not self.yielded[index]]

    def duplicated(self) -> list[int]:
        """Evaluations that were reported more than once."""
        return [index for index, times in self.yielded.items() if times > 1]


class Journals:
    """All journals of a folder, read on from where the last look ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.runs: dict[tuple[str, int], Run] = {}
        self.progress: dict[str, float] = {}
        """When each client wrote its last line."""
        self.unreachable: Counter[str] = Counter()
        """Errors outside of runs, by their class."""
        # The test asks while another thread follows; no line may be read by both.
        self._lock = threading.Lock()

    def look(self) -> None:
        """Read what has been written since."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        for path in sorted(self._directory.glob("*.jsonl")):
            text = path.read_bytes()
            # A client that is killed may leave half a line.
            upto = text.rfind(b"\n") + 1
            for line in text[self._read.get(path, 0) : upto].splitlines():
                self._take(path.stem, json.loads(line))
            self._read[path] = upto

    def _take(self, process: str, line: dict[str, Any]) -> None:
        client = process.rsplit("-", 2)[0]
        self.progress[client] = max(self.progress.get(client, 0.0), line["at"])
        if line["event"] == "unreachable":
            self.unreachable[line["error"]] += 1
        if "run" not in line:
            return
        key = (process, line["run"])
        if line["event"] == "reserving":
            self.runs[key] = Run(client, line["run"], line["at"])
            return
        self._take_of(self.runs[key], line)

    def _take_of(self, run: Run, line: dict[str, Any]) -> None:
        match line["event"]:
            case "begun":
                run.reservation, run.asked = line["reservation"], line["evaluations"]
            case "accepted":
                run.accepted.append(line["index"])
            case "result":
                run.yielded[line["index"]] += 1
                if "error" in line:
                    run.explicit[line["error"]] += 1
                else:
                    run.measured = run.measured or line["at"]
                    if not line["right"]:
                        run.wrong.append(f"{line['index']}: {line['pulses']} pulses")
            case "evaluated":
                run.evaluated = True
            case "finished" | "failed":
                run.finished, run.ended = line["event"] == "finished", line["at"]
                run.error = line.get("error")

    def violations(self) -> list[str]:
        """Everything that no run may show."""
        faults = []
        for run in list(self.runs.values()):
            if run.lost():
                faults.append(f"{run.name}: lost the evaluations {run.lost()}")
            if run.duplicated():
                faults.append(f"{run.name}: reported twice {run.duplicated()}")
            if run.wrong:
                faults.append(f"{run.name}: wrong results {run.wrong}")
            if len(run.accepted) != len(set(run.accepted)):
                faults.append(f"{run.name}: took an evaluation twice")
        return faults

    def finished_since(self, moment: float) -> set[str]:
        """The clients that have begun and finished a run, all in order, after a moment."""
        return {
            run.client
            for run in list(self.runs.values())
            if run.finished and run.began > moment and not run.explicit
        }
