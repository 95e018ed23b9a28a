"""Evaluations waiting for one device, each done once."""

import asyncio
from dataclasses import dataclass

from icefarm_schemas import Error, ErrorCode

MOST_WAITING = 32
"""Bitstreams of 104 kB each; a client that keeps two or three waiting never sees this limit."""


@dataclass(frozen=True)
class Evaluation:
    """A bitstream to be measured, and the session that waits for its result."""

    id: str
    bitstream: bytes
    client: str
    session: str


class EvaluationQueue:
    """First come, first served; a repeated id is dropped, whether it waits or is done."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Evaluation] = asyncio.Queue(MOST_WAITING)
        self._known: set[tuple[str, str]] = set()

    def add(self, evaluation: Evaluation) -> Error | None:
        """Queue an evaluation; an error says why it is refused."""
        key = (evaluation.client, evaluation.id)
        if key in self._known:
            return None
        if self._waiting.full():
            return Error(
                code=ErrorCode.LIMIT_EXCEEDED,
                message=f"{MOST_WAITING} evaluations wait for this board already; "
                f"send more when results have come",
                details={"longest_queue": MOST_WAITING},
            )
        self._known.add(key)
        self._waiting.put_nowait(evaluation)
        return None

    async def next(self) -> Evaluation:
        """The next one, as soon as there is one."""
        return await self._waiting.get()
