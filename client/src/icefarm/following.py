"""Results for a caller in another thread, whose iterator of bitstreams is read in that thread."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING

from icefarm.evaluating import Item, Items, check_items
from icefarm.results import Result

if TYPE_CHECKING:
    from icefarm.client import Client


class _Turn(Enum):
    """Whose it is, where there is no result."""

    ASKED = auto()
    """The caller's: another bitstream is wanted."""
    END = auto()


class _Asked:
    """The asynchronous end of an iterator that is read elsewhere."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self._answer: asyncio.Future[Item | _Turn] | None = None

    def __aiter__(self) -> "_Asked":
        return self

    async def __anext__(self) -> Item:
        self._answer = asyncio.get_running_loop().create_future()
        self.wanted.set()
        answer = await self._answer
        if isinstance(answer, _Turn):
            raise StopAsyncIteration
        return answer

    def give(self, item: "Item | _Turn") -> None:
        """Answer what was asked; END says that there is nothing more."""
        assert self._answer is not None
        self.wanted.clear()
        if not self._answer.done():
            self._answer.set_result(item)


class _Following:
    """The loop's side: what the caller does next."""

    def __init__(self, evaluate: Callable[[Items], AsyncGenerator[Result, None]]) -> None:
        self._asked = _Asked()
        self._results = evaluate(self._asked)
        self._next: asyncio.Task[Result | None] | None = None

    async def step(self) -> Result | _Turn:
        """The next result, or whose turn it is. Results come first."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._results, None))
        wanted = asyncio.create_task(self._asked.wanted.wait())
        try:
            await asyncio.wait([self._next, wanted], return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        if not self._next.done():
            return _Turn.ASKED
        result, self._next = self._next.result(), None
        return _Turn.END if result is None else result

    async def give(self, item: "Item | _Turn") -> Result | _Turn:
        """Answer, and go on."""
        self._asked.give(item)
        return await self.step()

    async def close(self) -> None:
        """End it, wherever it is."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._results.aclose()


def follow(
    client: "Client",
    evaluate: Callable[[Items], AsyncGenerator[Result, None]],
    bitstreams: Iterable[Item],
) -> Iterator[Result]:
    """Yield the results; the iterable is read in this thread, whenever a board has room."""

    async def begin() -> _Following:
        return _Following(evaluate)

    check_items(bitstreams)
    items = iter(bitstreams)
    following = client._call(begin())
    try:
        turn = client._call(following.step())
        while turn is not _Turn.END:
            if isinstance(turn, Result):
                yield turn
                turn = client._call(following.step())
            else:
                turn = client._call(following.give(next(items, _Turn.END)))
    finally:
        # One that was left half-way may be collected after its client has closed.
        if client._is_open:
            client._call(following.close())
