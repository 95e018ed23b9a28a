"""One run of `evaluate`: bitstreams out within each board's credit, results in, each once."""

import asyncio
import itertools
import logging
import secrets
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable
from os import PathLike
from typing import Any, Literal

from icefarm.backlog import Backlog, Work
from icefarm.boards import BoardKey, BoardName, names_of
from icefarm.errors import FarmError, InvalidRequestError, from_broker, from_error
from icefarm.holding import Holding
from icefarm.results import Bitstream, Result, Source
from icefarm_broker import BrokerError, NobodyListensError
from icefarm_schemas import CommandRefused, ErrorCode, EvaluationFinished, Measurement
from icefarm_schemas.topics import DEVICE_PROPERTY, EvaluateTopic

Item = Source | tuple[Source, BoardName | Iterable[BoardName]] | None
"""A bitstream, or one with the boards that it is for; None when there is nothing just now."""
Items = Iterable[Item] | AsyncIterable[Item]
WhenLost = Literal["move", "fail"]
"""What becomes of a bitstream whose board is lost: another board measures it, or none does."""

CREDIT = 3
"""Bitstreams that one board may have at a time: one that it measures, one that waits behind it,
and one on its way, so that the next is there when the previous ends."""
_MOST_LOSSES = 3
"""Boards that may be lost over one bitstream; perhaps they are lost because of it."""
_LOST = (ErrorCode.DEVICE_LOST, ErrorCode.RESERVATION_ENDED)
"""What a board's agent says of all that it has not measured when it stops to serve."""
SILENCE = 20.0
"""Seconds without a result, after which a board is sent again what it has. It does not measure what
it knows, so that costs little, and whatever was lost on the way, or why, is made good."""
_LOOK_AGAIN = 1.0
_RETRY = 0.5

_END = object()

log = logging.getLogger(__name__)


class Evaluating:
    """Keeps count of what was sent to which board and what has come back.

    Args:
        boards: what a bitstream without boards of its own is for: any board, each of those that
            are in the reservation when it is read, or these.
        when_lost: what becomes of it when any board will do and the one that has it is lost.
    """

    def __init__(
        self,
        holding: Holding,
        boards: Literal["any", "each"] | Collection[BoardKey],
        when_lost: WhenLost,
    ) -> None:
        self._holding = holding
        self._session = holding.session
        self._view = holding.view
        self._run_id = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._indices = itertools.count()
        self._default = boards
        self._moves = when_lost == "move"
        self._backlog = Backlog()
        self._sent: dict[BoardKey, dict[str, Work]] = defaultdict(dict)
        self._results: deque[Result] = deque()
        # When each board was last sent something, or heard of.
        self._heard: dict[BoardKey, float] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        # The iterator has nothing before another result has been yielded; or never again.
        self._waits = self._is_read = False
        # A result has been yielded since the iterator was asked last.
        self._has_news = False

    async def run(self, items: AsyncIterable[Item]) -> AsyncGenerator[Result, None]:
        """Yield the results."""
        iterator = aiter(items)
        reading: asyncio.Task[object] | None = None
        try:
            while True:
                self._look_for_losses()
                self._send()
                self._ask_the_silent()
                if reading is None and self._needs_more():
                    self._has_news = False
                    reading = asyncio.create_task(_next(iterator))
                if self._results:
                    yield self._results.popleft()
                    self._waits, self._has_news = False, True
                    continue
                if reading is None and self._is_read and self._is_idle():
                    return
                self._check()
                await self._wait(reading)
                if reading is not None and reading.done():
                    self._take_item(reading.result())
                    reading = None
        finally:
            tasks = [*self._publishing, *([] if reading is None else [reading])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, event: EvaluationFinished | CommandRefused) -> None:
        """An event of the reservation has come, perhaps for another run, or once more."""
        match event:
            case EvaluationFinished():
                key = (event.agent, event.device)
                self._heard[key] = time.monotonic()
                work = self._sent[key].pop(event.evaluation, None)
                if work is None:
                    return
                if event.error is not None and event.error.code in _LOST:
                    self._lose(key, work, from_error(event.error))
                else:
                    self._results.append(_result(key, work.bitstream, event))
            case CommandRefused():
                self._take_refusal(event)
        self._view.tell()

    def _take_refusal(self, event: CommandRefused) -> None:
        """An agent did not accept a bitstream for any of its boards."""
        refused = [k for k, sent in self._sent.items() if k[0] == event.agent and event.id in sent]
        if event.error.code is ErrorCode.RESERVATION_ENDED:
            # If that is so, control says it. If not, the agent has yet to learn what it serves.
            for key in refused:
                bitstream = self._sent[key][event.id].bitstream
                self._start_publishing(event.id, bitstream, [key], after=_RETRY)
        else:
            for key in refused:
                work = self._sent[key].pop(event.id)
                self._fail(key, work.bitstream, from_error(event.error))

    def send_again(self, agent: str) -> None:
        """Publish to an agent's boards all that has no result yet.

        A board that knows it does not measure it again, but sends the result again if it has one.
        """
        boards: dict[str, list[BoardKey]] = defaultdict(list)
        works = {}
        for key, sent in self._sent.items():
            for evaluation, work in sent.items() if key[0] == agent else ():
                boards[evaluation].append(key)
                works[evaluation] = work
        for evaluation, work in works.items():
            self._start_publishing(evaluation, work.bitstream, boards[evaluation])

    def _take_item(self, item: object) -> None:
        if item is _END:
            self._is_read = True
        elif item is None:
            # One that answered before it knew of the latest result is asked again.
            self._waits = not self._has_news
            if self._waits and not self._results and self._is_idle():
                raise InvalidRequestError(
                    "the iterator of bitstreams has nothing for now, but all results have been "
                    "yielded, so nothing would ever come; it may only yield None while it waits "
                    "for results, and has to end when it has no more bitstreams"
                )
        else:
            source, boards = item if isinstance(item, tuple) else (item, None)
            bitstream = Bitstream.load(next(self._indices), source)
            self._backlog.add(Work(bitstream, self._boards_for(boards)))

    def _boards_for(self, boards: BoardName | Iterable[BoardName] | None) -> set[BoardKey] | None:
        if boards is None:
            match self._default:
                case "any":
                    return None
                case "each":
                    return {*self._holding.boards()}
                case _:
                    return {*self._default}
        names = names_of(boards)
        if not names:
            raise InvalidRequestError("a bitstream is paired with no board; name one, or several")
        return {self._holding.find(name, even_lost=True) for name in names}

    def _room(self) -> dict[BoardKey, int]:
        """How many bitstreams each board can take now.

        A board that is away, or being started, may come back until control takes it away.
        """
        share = max(1, CREDIT // len(self._holding.runs))
        return {
            key: share - len(self._sent[key])
            for key in self._holding.boards()
            if self._holding.is_ready(key)
        }

    def _needs_more(self) -> bool:
        return not (self._is_read or self._waits) and self._backlog.needs_more(self._room())

    def _is_idle(self) -> bool:
        return not self._backlog and not any(self._sent.values())

    def _check(self) -> None:
        """Raise what ends the run."""
        self._session.check()
        self._holding.check()
        for task in [task for task in self._publishing if task.done()]:
            self._publishing.discard(task)
            error = task.exception()
            if isinstance(error, BrokerError):
                raise from_broker(error) from error
            if error is not None:
                raise error

    async def _wait(self, reading: asyncio.Task[object] | None) -> None:
        """Until an event, a change of the boards, another item, or a moment to look again."""
        change = asyncio.create_task(self._view.changed())
        tasks: set[asyncio.Task[Any]] = {change}
        if reading is not None:
            tasks.add(reading)
        try:
            await asyncio.wait(tasks, timeout=_LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    def _send(self) -> None:
        while (chosen := self._backlog.take(self._room())) is not None:
            work, boards = chosen
            evaluation = f"{self._run_id}-{next(self._numbers)}"
            for key in boards:
                self._sent[key][evaluation] = work
                self._heard[key] = time.monotonic()
            self._start_publishing(evaluation, work.bitstream, boards)

    def _ask_the_silent(self) -> None:
        now = time.monotonic()
        for key, sent in self._sent.items():
            if sent and now - self._heard[key] > SILENCE and self._holding.is_ready(key):
                log.info("the board %s is silent, and sent again what it has", key[1])
                self._heard[key] = now
                for evaluation, work in sent.items():
                    self._start_publishing(evaluation, work.bitstream, [key])

    def _start_publishing(
        self, evaluation: str, bitstream: Bitstream, boards: list[BoardKey], after: float = 0
    ) -> None:
        task = asyncio.create_task(self._publish(evaluation, bitstream, boards, after))
        self._publishing.add(task)

    async def _publish(
        self, evaluation: str, bitstream: Bitstream, boards: list[BoardKey], after: float
    ) -> None:
        if after:
            await asyncio.sleep(after)
        session = self._session
        topic = EvaluateTopic(self._holding.id, session.client, session.id, evaluation)
        named = [] if len(boards) == len(self._holding.boards()) else boards
        while True:
            try:
                return await self._session.connection.publish(
                    topic,
                    bitstream.data,
                    user_properties=[(DEVICE_PROPERTY, device) for _, device in named],
                )
            except NobodyListensError:
                # An agent that just came back has not subscribed yet; one that does not come
                # back is noticed by its state.
                await asyncio.sleep(_RETRY)

    def _look_for_losses(self) -> None:
        """What was for boards that are in the reservation no more."""
        gone = (self._sent.keys() | self._backlog.wanted()) - {*self._holding.boards()}
        for key in sorted(gone):
            error = self._holding.loss_of(key)
            # The last in front, since each is put before those that wait.
            for work in reversed(self._sent.pop(key, {}).values()):
                self._lose(key, work, error)
            for work, _ in self._backlog.lose([key]):
                self._fail(key, work.bitstream, error)

    def _lose(self, key: BoardKey, work: Work, error: FarmError) -> None:
        """A board is lost with what it was sent."""
        work.lost.append(key)
        if work.boards is None and self._moves and len(work.lost) < _MOST_LOSSES:
            self._backlog.put_back(work)
        else:
            self._fail(key, work.bitstream, error)

    def _fail(self, key: BoardKey, bitstream: Bitstream, error: FarmError) -> None:
        self._results.append(Result(bitstream.index, bitstream.name, key[1], key[0], error=error))


async def _next(iterator: AsyncIterator[Item]) -> object:
    return await anext(iterator, _END)


def _result(key: BoardKey, bitstream: Bitstream, event: EvaluationFinished) -> Result:
    measured = event.measurement or Measurement()
    return Result(
        index=bitstream.index,
        bitstream=bitstream.name,
        board=key[1],
        agent=key[0],
        pulses=measured.pulses,
        variance=measured.variance,
        waveform=measured.waveform,
        error=None if event.error is None else from_error(event.error),
        seconds=event.seconds,
    )


def check_items(items: object) -> None:
    """Check what a caller gave.

    Raises:
        InvalidRequestError: it is a single bitstream.
    """
    if isinstance(items, str | bytes | PathLike):
        raise InvalidRequestError("evaluate takes several bitstreams; put a single one in a list")


async def each_of(items: Items) -> AsyncGenerator[Item, None]:
    """The items of any iterable."""
    check_items(items)
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
