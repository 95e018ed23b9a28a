"""Work for one device that is done once, however often it is asked for."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from icefarm_schemas import Error, ErrorCode


class Item(Protocol):
    """A piece of work."""

    @property
    def key(self) -> Hashable:
        """What makes it the same when it comes again."""


_Item = TypeVar("_Item", bound=Item)
_Result = TypeVar("_Result")


class OnceQueue(Generic[_Item, _Result]):
    """First come, first served; what is known already is not done again.

    Args:
        what: its plural, for people.
        most_waiting: more are refused.
        results_kept: so many results can be asked for again.
    """

    def __init__(self, what: str, most_waiting: int, results_kept: int) -> None:
        self._what, self._most_waiting, self._results_kept = what, most_waiting, results_kept
        self._waiting: deque[_Item] = deque()
        self._came = asyncio.Event()
        self._known: set[Hashable] = set()
        self._results: OrderedDict[Hashable, _Result] = OrderedDict()

    def add(self, item: _Item) -> Error | None:
        """Queue it, unless it is known; an error says why it is refused."""
        if item.key in self._known:
            return None
        if len(self._waiting) >= self._most_waiting:
            return Error(
                code=ErrorCode.LIMIT_EXCEEDED,
                message=f"{self._most_waiting} {self._what} wait for this board already; "
                "send more when results have come",
                details={"longest_queue": self._most_waiting},
            )
        self._known.add(item.key)
        self._waiting.append(item)
        self._came.set()
        return None

    async def next(self) -> _Item:
        """The next one, as soon as there is one; it is that until it is finished."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._waiting[0]

    def drain(self) -> list[_Item]:
        """Those that are not finished, which then wait no more."""
        drained = list(self._waiting)
        self._waiting.clear()
        return drained

    def finish(self, item: _Item, result: _Result) -> None:
        """Keep a result for a while, in case it is asked for again."""
        if item in self._waiting:
            self._waiting.remove(item)
        self._results[item.key] = result
        if len(self._results) > self._results_kept:
            oldest, _ = self._results.popitem(last=False)
            self._known.discard(oldest)

    def result_of(self, item: _Item) -> _Result | None:
        """The result that it has had already."""
        return self._results.get(item.key)
