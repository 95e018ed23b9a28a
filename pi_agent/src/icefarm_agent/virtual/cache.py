"""Remembered outcomes, so that a bitstream that comes again costs nothing.

The key is the SHA-256 of the bitstream; the outcome is its waveform or what is wrong with it. The
memory is bounded by the total length of the waveforms. A folder, if given, keeps outcomes between
runs and may be shared by several processes.
"""

import json
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

from icefarm_agent.virtual.waveform import Waveform

Outcome = Waveform | str
"""The waveform, or the message of the BitstreamError."""

_MODEL = 1
"""Increased when the same bitstream may have another outcome than before."""

_WEIGHT_KEPT = 2_000_000
_WEIGHT_OF_ONE = 1_000
"""Weights are counted in changes of level (some tens of bytes each), so that at most 2,000
waveforms are kept, and fewer if they are long."""


class Cache:
    """Outcomes by digest, the least recently used forgotten first."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._weight = 0

    def get(self, digest: str) -> Outcome | None:
        """The outcome, or None if it is not known (any more)."""
        outcome = self._outcomes.get(digest)
        if outcome is not None:
            self._outcomes.move_to_end(digest)
            return outcome
        outcome = self._read(digest)
        if outcome is not None:
            self._keep(digest, outcome)
        return outcome

    def put(self, digest: str, outcome: Outcome) -> None:
        """Remember an outcome. Raises OSError if the folder cannot be written."""
        self._keep(digest, outcome)
        if self._directory is not None:
            self._write(self._directory, digest, outcome)

    def _keep(self, digest: str, outcome: Outcome) -> None:
        if digest in self._outcomes:
            self._weight -= _weight(self._outcomes.pop(digest))
        self._outcomes[digest] = outcome
        self._weight += _weight(outcome)
        while self._weight > _WEIGHT_KEPT and len(self._outcomes) > 1:
            _, forgotten = self._outcomes.popitem(last=False)
            self._weight -= _weight(forgotten)

    def _read(self, digest: str) -> Outcome | None:
        if self._directory is None:
            return None
        try:
            value = json.loads((self._directory / _name(digest)).read_bytes())
            return str(value["error"]) if "error" in value else Waveform.from_json(value)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # not ours, or damaged: simulated again, and then replaced

    @staticmethod
    def _write(directory: Path, digest: str, outcome: Outcome) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        value = {"error": outcome} if isinstance(outcome, str) else outcome.to_json()
        # Renaming is atomic: another process sees the whole file or none.
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".part")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(value, file, separators=(",", ":"))
            os.replace(temporary, directory / _name(digest))
        except BaseException:
            os.unlink(temporary)
            raise


def _name(digest: str) -> str:
    return f"{digest}.v{_MODEL}.json"


def _weight(outcome: Outcome) -> int:
    return _WEIGHT_OF_ONE + (len(outcome.changes) if isinstance(outcome, Waveform) else 0)
