"""One run of `evaluate`: bitstreams out within each board's credit, results in, each once."""

import asyncio
import secrets
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TYPE_CHECKING

from icefarm.errors import FarmError, from_broker, from_error
from icefarm.results import Bitstream, Result, Source
from icefarm.session import Session
from icefarm_broker import BrokerError, NobodyListensError
from icefarm_schemas import CommandRefused, EvaluationFinished, Measurement
from icefarm_schemas.topics import DEVICE_PROPERTY, EvaluateTopic

if TYPE_CHECKING:
    from icefarm.async_reservation import AsyncReservation

CREDIT = 3
"""Bitstreams that one board may have at a time: one that it measures, one that waits behind it,
and one on its way, so that the next is there when the previous ends."""
_LOOK_AGAIN = 1.0
_RETRY = 0.5

BoardKey = tuple[str, str]
"""Agent and device."""


class Evaluating:
    """Keeps count of what was sent to which board and what has come back."""

    def __init__(self, reservation: "AsyncReservation", session: Session) -> None:
        self._reservation = reservation
        self._connection = session.connection
        self._view = session.view
        self._client, self._session = session.client, session.id
        self._run_id = secrets.token_hex(4)
        self._sent: dict[BoardKey, dict[str, Bitstream]] = defaultdict(dict)
        self._events: deque[EvaluationFinished | CommandRefused] = deque()
        self._happened = asyncio.Event()
        self._publishing: set[asyncio.Task[None]] = set()

    def take(self, event: EvaluationFinished | CommandRefused) -> None:
        """An event of the reservation has come."""
        self._events.append(event)
        self._happened.set()

    async def run(
        self, sources: Iterable[Source], on_every_board: bool
    ) -> AsyncGenerator[Result, None]:
        """Yield the results."""
        bitstreams = (Bitstream.load(i, source) for i, source in enumerate(sources))
        more = True
        try:
            while True:
                more = more and self._send(bitstreams, on_every_board)
                if not more and not any(self._sent.values()):
                    return
                await self._wait()
                while self._events:
                    for result in self._results_of(self._events.popleft()):
                        yield result
                for result in self._lost():
                    yield result
                self._reservation.check()
                self._check_publishing()
        finally:
            for task in self._publishing:
                task.cancel()
            await asyncio.gather(*self._publishing, return_exceptions=True)

    def has_boards(self) -> bool:
        """Whether any board serves the reservation now."""
        return bool(self._usable())

    def _boards(self) -> list[BoardKey]:
        return [(d.agent, d.device) for d in self._reservation.state.devices]

    def _usable(self) -> list[BoardKey]:
        return [key for key in self._boards() if self._view.is_ready(*key, self._reservation.id)]

    def _send(self, bitstreams: Iterator[Bitstream], on_every_board: bool) -> bool:
        """Send what the boards have room for; False when there is no more.

        A board that is away, or being started, may come back until control takes it away.
        """
        while True:
            usable = self._usable()
            free = [key for key in usable if len(self._sent[key]) < CREDIT]
            if not free or (on_every_board and len(free) < len(usable)):
                return True
            targets = free if on_every_board else [min(free, key=lambda k: len(self._sent[k]))]
            bitstream = next(bitstreams, None)
            if bitstream is None:
                return False
            evaluation = f"{self._run_id}-{bitstream.index}"
            for key in targets:
                self._sent[key][evaluation] = bitstream
            self._start_publishing(evaluation, bitstream, targets)

    def send_again(self, agent: str) -> None:
        """Publish to an agent's boards all that has no result yet.

        A board that knows it does not measure it again, but sends the result again if it has one.
        """
        targets: dict[str, list[BoardKey]] = defaultdict(list)
        bitstreams = {}
        for key, sent in self._sent.items():
            for evaluation, bitstream in sent.items() if key[0] == agent else ():
                targets[evaluation].append(key)
                bitstreams[evaluation] = bitstream
        for evaluation, bitstream in bitstreams.items():
            self._start_publishing(evaluation, bitstream, targets[evaluation])

    def _start_publishing(
        self, evaluation: str, bitstream: Bitstream, targets: list[BoardKey]
    ) -> None:
        task = asyncio.create_task(self._publish(evaluation, bitstream, targets))
        self._publishing.add(task)

    async def _publish(
        self, evaluation: str, bitstream: Bitstream, targets: list[BoardKey]
    ) -> None:
        topic = EvaluateTopic(self._reservation.id, self._client, self._session, evaluation)
        named = [] if len(targets) == len(self._boards()) else targets
        while True:
            try:
                return await self._connection.publish(
                    topic,
                    bitstream.data,
                    user_properties=[(DEVICE_PROPERTY, device) for _, device in named],
                )
            except NobodyListensError:
                # An agent that just came back has not subscribed yet; one that does not come
                # back is noticed by its state.
                await asyncio.sleep(_RETRY)

    def _check_publishing(self) -> None:
        for task in [task for task in self._publishing if task.done()]:
            self._publishing.discard(task)
            error = task.exception()
            if isinstance(error, BrokerError):
                raise from_broker(error) from error
            if error is not None:
                raise error

    async def _wait(self) -> None:
        """Until an event, a change of the boards, or a moment to look at the time."""
        if self._events:
            return
        self._happened.clear()
        either = [
            asyncio.create_task(self._happened.wait()),
            asyncio.create_task(self._view.changed()),
        ]
        try:
            await asyncio.wait(either, timeout=_LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in either:
                task.cancel()

    def _results_of(self, event: EvaluationFinished | CommandRefused) -> list[Result]:
        """The results in an event: none when it is a repetition."""
        if isinstance(event, EvaluationFinished):
            key = (event.agent, event.device)
            bitstream = self._sent[key].pop(event.evaluation, None)
            if bitstream is None:
                return []
            return [self._result(key, bitstream, event)]
        error = from_error(event.error)
        return [
            self._failed(key, sent.pop(event.id), error)
            for key, sent in self._sent.items()
            if key[0] == event.agent and event.id in sent
        ]

    def _lost(self) -> list[Result]:
        """Failed results for what was sent to boards that are in the reservation no more."""
        results = []
        for key in self._sent.keys() - self._boards():
            sent = self._sent.pop(key)
            error = self._reservation.loss_of(key)
            results += [self._failed(key, bitstream, error) for bitstream in sent.values()]
        return results

    @staticmethod
    def _failed(key: BoardKey, bitstream: Bitstream, error: FarmError) -> Result:
        return Result(bitstream.index, bitstream.name, key[1], key[0], error=error)

    @staticmethod
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
