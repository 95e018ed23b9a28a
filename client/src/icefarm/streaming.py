"""The stream of a board: opened, carried, and opened again by itself whenever it was lost.

What `BoardStream.keep` does:

    state    waits until                                      and then
    waiting  the board is ready in this reservation           opening
    opening  the agent says that the stream is open           plugging in
             nothing comes in time, or a refusal              waiting, after a pause
    plugging in  the end on this machine is ready             open
    open     this connection is lost, the agent ends the      the end on this machine is taken
             stream or is gone, the board is not ready any    down at once; waiting
             more, or the end on this machine is closed
    (any)    the reservation is over, or the board is taken   an error
             out of it
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, Protocol

from icefarm.boards import BoardKey, BoardName
from icefarm.errors import (
    FarmError,
    FarmPermissionError,
    InvalidRequestError,
    LimitExceededError,
    NotSupportedError,
    StreamLostError,
    TimedOutError,
    from_broker,
    from_error,
)
from icefarm.holding import Holding
from icefarm_broker import BrokerError, NobodyListensError, Stream
from icefarm_broker import StreamLostError as StreamCutError
from icefarm_schemas import (
    CloseStream,
    CommandFinished,
    CommandRefused,
    ErrorCode,
    OpenStream,
    StreamClosed,
    StreamOpened,
)
from icefarm_schemas.topics import CloseTopic, OpenTopic, StreamDownTopic, StreamUpTopic

TAKEN_BY = "session"
"""In the details of a `stream_lost`: the session that opened the stream which ended this one."""

_OPENING = 10.0
"""Seconds for an agent's answer."""
_CLOSING = 2.0
"""Seconds that telling the agent of an end may take."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_SHORT = 5.0
"""Seconds; after a stream that lasted longer, the next is opened without a pause."""
_HOPELESS = (NotSupportedError, LimitExceededError, FarmPermissionError, InvalidRequestError)
"""What another attempt does not help against."""


log = logging.getLogger(__name__)


class StreamState(StrEnum):
    """Where a stream is; see the table."""

    WAITING = "waiting"
    OPENING = "opening"
    PLUGGING_IN = "plugging in"
    OPEN = "open"


class End(Protocol):
    """What one stream ends in on this machine."""

    @property
    def descriptor(self) -> int:
        """What the stream reads and writes; the stream closes it."""

    async def plug_in(self, opened: StreamOpened) -> None:
        """The other end is there: return when this one can be used, which takes its bytes."""

    def unplug(self) -> None:
        """Take it down now, whether it was plugged in or not; the descriptor is closed after it."""


class BoardStream:
    """A board's stream, at most one at a time.

    Raises (when it is made):
        InvalidRequestError: no board is named, and the reservation has several.
        NotHolderError: the board is not in the reservation.
    """

    def __init__(self, holding: Holding, board: BoardName | None) -> None:
        self.key: BoardKey = holding.find(board)
        self.state = StreamState.WAITING
        self.why: FarmError | None = None
        """Why it is not open any more."""
        self._holding = holding
        self._session = holding.session
        self._connection = holding.session.connection
        self._view = holding.view
        self._names = (holding.id, self.board, holding.session.client, holding.session.id)
        self._opened: StreamOpened | None = None
        self._closed: StreamClosed | CommandRefused | None = None
        self._was_open = self._is_cut = self._is_taken = self._is_finished = False
        self._keeping: asyncio.Task[None] | None = None

    @property
    def board(self) -> str:
        """The board's name."""
        return self.key[1]

    def start(self, make_end: Callable[[], End]) -> None:
        """Begin to `keep` a stream open."""
        self._keeping = asyncio.create_task(self.keep(make_end), name=f"stream of {self.board}")

    async def open(self, make_end: Callable[[], End], timeout: float) -> None:
        """Begin likewise, and return when it is open; when it does not come to that, stop again.

        Raises: as `until_open`.
        """
        self.start(make_end)
        try:
            await self.until_open(timeout)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, patience: float = 0) -> None:
        """End that: at once, or when what carries bytes now has ended within `patience` seconds."""
        if self._keeping is not None:
            self._is_finished = True
            await asyncio.wait([self._keeping], timeout=patience)
            self._keeping.cancel()
            # What went wrong has been raised by whoever waited for a change.
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def changed(self) -> None:
        """Return when something may be different from what it was at the call.

        Raises:
            FarmError: what ended `keep`.
        """
        change = asyncio.ensure_future(self._something())
        tasks: set[asyncio.Future[None]] = {change}
        if self._keeping is not None:
            tasks.add(self._keeping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()

    async def until_open(self, timeout: float | None) -> None:
        """Return when it is open.

        Raises:
            TimedOutError: it is not within `timeout` seconds.
            FarmError: what ended `keep`.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.state is not StreamState.OPEN:
                    await self.changed()
        except TimeoutError:
            why = self.why or f"the board is {self._holding.status_of(self.key)}"
            raise TimedOutError(
                f"the stream of {self.board!r} is not open after {timeout:g} s: {why}"
            ) from None

    async def keep(self, make_end: Callable[[], End]) -> None:
        """Keep a stream open, each with an end of its own.

        Raises:
            ReservationEndedError, BoardLostError: the reservation, or the board's part, is over.
            NotSupportedError, LimitExceededError: there is no stream, or no end for it here.
            StreamLostError: another of the holder's processes has opened the board's stream.
        """
        pause = _FIRST_PAUSE
        while not self._is_finished:
            await self.until_ready()
            began = time.monotonic()
            try:
                await self.carry(make_end())
            except FarmError as error:
                if self._is_taken or (isinstance(error, _HOPELESS) and not self._was_open):
                    raise
                self.why = error
                self._view.tell()
            if time.monotonic() - began > _SHORT:
                pause = _FIRST_PAUSE
            elif not self._is_finished:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def until_ready(self) -> None:
        """Return when the board serves the reservation.

        Raises:
            ReservationEndedError, BoardLostError: it never will.
        """
        while not self.is_ready():
            await self._something()

    def is_ready(self) -> bool:
        """Whether the board serves the reservation; raises what `until_ready` raises."""
        self._holding.check_board(self.key)
        return self._view.is_ready(*self.key, self._holding.id)

    def _something(self) -> Coroutine[Any, Any, None]:
        """Wait for the next change after this call of anything that this client sees.

        It is no coroutine function, which would see only what changes after it was awaited.
        """
        return self._session.while_listening(self._view.changed())

    async def carry(self, end: End) -> None:
        """Open one stream, and carry its bytes until the end on this machine is closed.

        Raises:
            StreamLostError: it was lost, or could not be opened in time.
            FarmError: what the agent gave as its reason, or what `end` raised.
        """
        stream = secrets.token_hex(4)
        up, down = StreamUpTopic(*self._names), StreamDownTopic(*self._names)
        # It is there before the agent can send anything, so that nothing is missed.
        carrier = Stream(self._connection, stream, up, down, end.descriptor)
        self._opened = self._closed = None
        self._is_cut = False
        try:
            with self._holding.hearing(stream, self._hear):
                try:
                    opened = await self._open(stream, down)
                    await self._while_open(carrier, end, opened)
                finally:
                    end.unplug()
                    carrier.close()
                    self._enter(StreamState.WAITING)
                    await self._say_closed(stream)
        except BrokerError as error:
            raise from_broker(error) from error

    async def _open(self, stream: str, down: StreamDownTopic) -> StreamOpened:
        self._enter(StreamState.OPENING)
        topic = OpenTopic(self._names[0], *self._names[2:], stream)
        try:
            async with asyncio.timeout(_OPENING):
                await self._connection.subscribe(down.build(self._session.root))
                # An agent that is away must not open it when nobody waits for it any more.
                await self._connection.publish(
                    topic, OpenStream(device=self.board), expiry=round(_OPENING)
                )
                while self._opened is None:
                    self._check()
                    await self._something()
        except TimeoutError:
            raise StreamLostError(
                f"the agent {self.key[0]!r} does not say within {_OPENING:g} s whether the "
                f"stream of {self.board!r} is open"
            ) from None
        except NobodyListensError:
            raise StreamLostError(f"the agent {self.key[0]!r} does not listen yet") from None
        return self._opened

    async def _while_open(self, carrier: Stream, end: End, opened: StreamOpened) -> None:
        self._enter(StreamState.PLUGGING_IN)
        carrying = asyncio.create_task(carrier.run())
        plugging = asyncio.create_task(end.plug_in(opened))
        watching = asyncio.create_task(self._watch())
        tasks = {carrying, plugging, watching}
        try:
            while carrying in tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if plugging in done:
                    plugging.result()
                    self._was_open, self.why = True, None
                    self._enter(StreamState.OPEN)
                if watching in done:
                    watching.result()
                if carrying in done:
                    carrying.result()
            self.why = StreamLostError(f"the end of {self.board!r} on this machine was closed")
        except StreamCutError as error:
            # The agent notices too, or at the next opening.
            self._is_cut = True
            self.why = from_broker(error)
            raise
        except FarmError as error:
            self.why = error
            raise
        finally:
            self._enter(StreamState.WAITING)
            # Before its descriptor is closed.
            end.unplug()
            for task in (carrying, plugging, watching):
                task.cancel()
            await asyncio.gather(carrying, plugging, watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._check()
            await self._something()

    def _check(self) -> None:
        """Raise when the stream is not to go on."""
        if self._closed is not None:
            raise self._why_closed(self._closed)
        if not self.is_ready():
            raise StreamLostError(
                f"the board {self.board!r} is {self._holding.status_of(self.key)}"
            )

    def _why_closed(self, closed: StreamClosed | CommandRefused) -> FarmError:
        error = closed.error
        if error is None:
            return StreamLostError(
                f"the board {self.board!r} ended the stream, as it does when it starts again"
            )
        taker = error.details.get(TAKEN_BY)
        if error.code is ErrorCode.STREAM_LOST and taker not in (None, self._session.id):
            # Opening it again would end that one's stream, which would open it again.
            self._is_taken = True
            return StreamLostError(
                f"another process of yours (session {taker}) uses the board {self.board!r} now"
            )
        return from_error(error)

    def _hear(self, event: StreamOpened | StreamClosed | CommandRefused | CommandFinished) -> None:
        match event:
            case StreamOpened():
                self._opened = event
            case StreamClosed() | CommandRefused():
                self._closed = event
            case CommandFinished():
                return
        self._view.tell()

    async def _say_closed(self, stream: str) -> None:
        """Let the agent know; one that does not hear of it ends the stream at the next opening."""
        if self._closed is not None or self._is_cut:
            return
        topic = CloseTopic(self._names[0], *self._names[2:], stream)
        try:
            async with asyncio.timeout(_CLOSING):
                await self._connection.publish(
                    topic, CloseStream(device=self.board), expiry=round(_OPENING)
                )
        except (TimeoutError, BrokerError) as error:
            # Where the reservation is over, the agent has ended the stream itself.
            log.info("%s was not told that %s is closed: %s", self.key[0], stream, error)

    def _enter(self, state: StreamState) -> None:
        self.state = state
        self._view.tell()
