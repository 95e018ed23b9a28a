"""Evaluations of one device in one reservation, each done once."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from icefarm_schemas import Error, ErrorCode, EvaluationFinished

MOST_WAITING = 32
"""Bitstreams of 104 kB each; a client that keeps two or three waiting never sees this limit."""
RESULTS_KEPT = 256
"""Far more than a client can have open on one board, so that it can ask for each of them again."""

_Key = tuple[str, str]
"""Client and evaluation id."""


@dataclass(frozen=True)
class Evaluation:
    """A bitstream to be measured, and the session that waits for its result."""

    id: str
    bitstream: bytes
    client: str
    session: str

    @property
    def key(self) -> _Key:
        """What makes it the same evaluation when it comes again."""
        return self.client, self.id


class EvaluationQueue:
    """First come, first served; a repeated id is not measured again."""

    def __init__(self) -> None:
        self._waiting: deque[Evaluation] = deque()
        self._came = asyncio.Event()
        self._known: set[_Key] = set()
        self._results: OrderedDict[_Key, EvaluationFinished] = OrderedDict()

    def add(self, evaluation: Evaluation) -> Error | None:
        """Queue an evaluation, unless it is known; an error says why it is refused."""
        if evaluation.key in self._known:
            return None
        if len(self._waiting) >= MOST_WAITING:
            return Error(
                code=ErrorCode.LIMIT_EXCEEDED,
                message=f"{MOST_WAITING} evaluations wait for this board already; "
                f"send more when results have come",
                details={"longest_queue": MOST_WAITING},
            )
        self._known.add(evaluation.key)
        self._waiting.append(evaluation)
        self._came.set()
        return None

    async def next(self) -> Evaluation:
        """The next one, as soon as there is one."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    def put_back(self, evaluation: Evaluation) -> None:
        """One that was taken but not finished is the next one again."""
        self._waiting.appendleft(evaluation)
        self._came.set()

    def drain(self) -> list[Evaluation]:
        """Those that wait, which then do so no more."""
        drained = list(self._waiting)
        self._waiting.clear()
        return drained

    def finish(self, evaluation: Evaluation, result: EvaluationFinished) -> None:
        """Keep a result for a while, in case it is asked for again."""
        self._results[evaluation.key] = result
        if len(self._results) > RESULTS_KEPT:
            oldest, _ = self._results.popitem(last=False)
            self._known.discard(oldest)

    def result_of(self, evaluation: Evaluation) -> EvaluationFinished | None:
        """The result that this evaluation has had already."""
        return self._results.get(evaluation.key)
