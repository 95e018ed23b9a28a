"""Remembered outcomes, so that a bitstream that comes again costs nothing.

The key is the SHA-256 of the bitstream; the outcome is its waveform or what is wrong with it. The
memory is bounded by the total length of the waveforms.
"""

from collections import OrderedDict

from icefarm_agent.virtual.waveform import Waveform

Outcome = Waveform | str
"""The waveform, or the message of the BitstreamError."""

_WEIGHT_KEPT = 2_000_000
_WEIGHT_OF_ONE = 1_000
"""Weights are counted in changes of level (some tens of bytes each), so that at most 2,000
waveforms are kept, and fewer if they are long."""


class Cache:
    """Outcomes by digest, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._weight = 0

    def get(self, digest: str) -> Outcome | None:
        """The outcome, or None if it is not known (any more)."""
        outcome = self._outcomes.get(digest)
        if outcome is not None:
            self._outcomes.move_to_end(digest)
        return outcome

    def put(self, digest: str, outcome: Outcome) -> None:
        """Remember an outcome."""
        if digest in self._outcomes:
            self._weight -= _weight(self._outcomes.pop(digest))
        self._outcomes[digest] = outcome
        self._weight += _weight(outcome)
        while self._weight > _WEIGHT_KEPT and len(self._outcomes) > 1:
            _, forgotten = self._outcomes.popitem(last=False)
            self._weight -= _weight(forgotten)


def _weight(outcome: Outcome) -> int:
    return _WEIGHT_OF_ONE + (len(outcome.changes) if isinstance(outcome, Waveform) else 0)
