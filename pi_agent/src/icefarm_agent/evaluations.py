"""A bitstream that a holder wants to have measured."""

from dataclasses import dataclass, field

from icefarm_agent.once import OnceQueue
from icefarm_schemas import EvaluationFinished

MOST_WAITING = 32
"""Bitstreams of 104 kB each; a client that keeps two or three waiting never sees this limit."""
_RESULTS_KEPT = 256
"""Far more than a client can have open on one board, so that it can ask for each of them again."""


@dataclass(frozen=True)
class Evaluation:
    """A bitstream, and the session that waits for its result."""

    id: str
    bitstream: bytes = field(repr=False)
    client: str
    session: str

    @property
    def key(self) -> tuple[str, str]:
        """Client and id, which make it the same when it comes again."""
        return self.client, self.id


def evaluation_queue() -> OnceQueue[Evaluation, EvaluationFinished]:
    """The evaluations of one device in one reservation."""
    return OnceQueue("evaluations", MOST_WAITING, _RESULTS_KEPT)
