"""The stream of one device: opened by its holder, ended by either, by the device, or by a death."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from structlog.contextvars import bind_contextvars

from icefarm_agent.behaviours import Behaviour, Streams
from icefarm_agent.board import BoardError
from icefarm_agent.metrics import STREAM_BYTES
from icefarm_agent.outbox import Outbox
from icefarm_broker import BrokerError, Connection, Stream
from icefarm_schemas import (
    Error,
    ErrorCode,
    FrameError,
    StreamClosed,
    StreamOpened,
    stream_tag,
)
from icefarm_schemas.topics import SessionStateTopic, StreamDownTopic, StreamUpTopic

_FLUSHING = 2.0
"""Seconds that a device may take for what its holder sent before he closed the stream."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamRequest:
    """A stream that a holder wants: its id, and who and what it is for."""

    stream: str
    reservation: str
    device: str
    client: str
    session: str


class StreamCutError(Exception):
    """Why a stream is ended from this side."""

    def __init__(self, code: ErrorCode, message: str, **details: str) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, details=details)


class Subscriptions:
    """Filters that several streams need, subscribed to as long as one of them does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._needed: Counter[str] = Counter()

    @asynccontextmanager
    async def to(self, *filters: str) -> AsyncIterator[None]:
        """Be subscribed while the block runs."""
        self._needed.update(filters)
        try:
            await self._connection.subscribe(*filters)
            yield
        finally:
            self._needed.subtract(filters)
            if unneeded := [text for text in filters if self._needed[text] == 0]:
                await self._connection.unsubscribe(*unneeded)


_CLOSED = StreamCutError(ErrorCode.STREAM_LOST, "its holder closed the stream")


class DeviceStream:
    """At most one stream at a time; the one that was asked for last is it.

    Args:
        changed: called when a stream was opened or has ended.
    """

    def __init__(
        self,
        connection: Connection,
        subscriptions: Subscriptions,
        agent: str,
        outbox: Outbox,
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self._one_at_a_time = asyncio.Lock()
        self._agent = agent
        self._outbox = outbox
        self._changed = changed
        self._request: StreamRequest | None = None
        self._running: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self._why = StreamCutError(ErrorCode.STREAM_LOST, "the agent is stopping")
        self.is_open = False

    @property
    def request(self) -> StreamRequest | None:
        """The stream that is there, or being opened."""
        return None if self._running is None or self._running.done() else self._request

    async def open(self, request: StreamRequest, behaviour: Behaviour) -> None:
        """Open a stream in the place of an earlier one; how that goes is told by events."""
        async with self._one_at_a_time:
            if self.request == request:
                return  # The same command, come again.
            await self._cut(
                StreamCutError(
                    ErrorCode.STREAM_LOST,
                    "another stream of the board was opened",
                    session=request.session,
                )
            )
            self._request = request
            self._running = asyncio.create_task(
                self._serve(request, behaviour), name=f"stream {request.stream}"
            )

    async def refuse(self, request: StreamRequest, error: Error) -> None:
        """Tell that a stream cannot be opened."""
        await self._tell_closed(request, error)

    async def close(self, request: StreamRequest) -> None:
        """End a stream as its holder wants it: what he has sent is passed on first."""
        if request == self.request and self._stream is not None:
            await self._stream.flush(_FLUSHING)
        await self.cut(_CLOSED, request)

    async def cut(self, why: StreamCutError, only: StreamRequest | None = None) -> None:
        """End the stream that is there, or `only` this one, and return when the device is free."""
        async with self._one_at_a_time:
            if only is None or only == self.request:
                await self._cut(why)

    async def _cut(self, why: StreamCutError) -> None:
        running, self._running = self._running, None
        if running is not None and not running.done():
            self._why = why
            running.cancel()
            await asyncio.wait([running])

    async def _serve(self, request: StreamRequest, behaviour: Behaviour) -> None:
        # This task is the stream's own.
        bind_contextvars(device=request.device, reservation=request.reservation)
        error: Error | None = None
        try:
            await self._carry(request, behaviour)
        except asyncio.CancelledError:
            error = self._why.error
        except StreamCutError as cut:
            error = cut.error
        except (BoardError, BrokerError) as problem:
            error = Error(code=ErrorCode.STREAM_LOST, message=str(problem))
        except Exception as problem:
            # A behaviour may be a lab's own; its defect ends its stream, not the agent.
            log.exception("the stream of %s failed", request.device)
            error = Error(code=ErrorCode.INTERNAL, message=f"the stream failed: {problem!r}")
        log.info(
            "the stream %s of %s is over: %s",
            request.stream,
            request.device,
            error.message if error is not None else "the device ended it",
        )
        await self._tell_closed(request, error)

    async def _carry(self, request: StreamRequest, behaviour: Behaviour) -> None:
        if not isinstance(behaviour, Streams):
            raise StreamCutError(
                ErrorCode.NOT_SUPPORTED,
                f"what {request.device!r} does now has no stream; change its behaviour to usbip "
                "or serial",
            )
        try:
            stream_tag(request.stream)
        except FrameError as error:
            raise StreamCutError(ErrorCode.INVALID_REQUEST, str(error)) from error
        names = (request.reservation, request.device, request.client, request.session)
        up, down = StreamUpTopic(*names), StreamDownTopic(*names)
        session = SessionStateTopic(request.client, request.session)
        topics = [topic.build(self._connection.root) for topic in (up, session)]
        async with self._subscriptions.to(*topics), behaviour.open() as endpoint:
            stream = Stream(
                self._connection,
                request.stream,
                down,
                up,
                endpoint.fd,
                speaks_first=False,
                may_wait=endpoint.may_wait,
            )
            self._stream = stream
            try:
                self._note(is_open=True)
                opened = StreamOpened(
                    reservation=request.reservation,
                    stream=request.stream,
                    agent=self._agent,
                    device=request.device,
                    usb=endpoint.usb,
                )
                await self._tell(request, opened)
                with STREAM_BYTES.of(stream):
                    await stream.run()
            finally:
                self._stream = None
                stream.close()
                self._note(is_open=False)

    def _note(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self._changed()

    async def _tell_closed(self, request: StreamRequest, error: Error | None) -> None:
        closed = StreamClosed(
            reservation=request.reservation,
            stream=request.stream,
            agent=self._agent,
            device=request.device,
            error=error,
        )
        await self._tell(request, closed)

    async def _tell(self, request: StreamRequest, event: StreamOpened | StreamClosed) -> None:
        await self._outbox.put(request.client, request.session, event)
