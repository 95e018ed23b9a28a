"""What the agent logs, published for those who look after the farm: `agents/{agent}/log`.

It never keeps the agent from its work: a line goes into a list of limited length and is sent with
QoS 0 from there, at a limited pace. While the broker is away the latest lines wait, since these
tell why.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from structlog.contextvars import get_contextvars

from icefarm_broker import Connection, ConnectionLostError
from icefarm_schemas import CONTENT_TYPE, LogLevel, LogLine
from icefarm_schemas.topics import LogTopic

MOST_WAITING = 200
"""Lines; of more, the oldest are left out, and the next one says how many."""
LONGEST = 4000
"""Characters of a line; of a longer one, such as a traceback, the end is sent."""
_PAUSE = 0.05
"""Seconds after each line that is sent, so that an agent in trouble does not trouble the broker."""
_AWAY = 1.0
"""Seconds between two attempts while there is no connection."""
_WIRE = "icefarm.wire"
"""Logs each message that is published, and so would this one's."""


class LogPublisher(logging.Handler):
    """Takes the lines of all loggers from INFO up, from any thread, while it is `installed`."""

    def __init__(self, agent: str, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._connection = connection
        self._topic = LogTopic(agent).build(connection.root)
        self._waiting: deque[LogLine] = deque()
        self._left_out = 0
        self._guard = threading.Lock()
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sender: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to all loggers for as long as the block runs."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; what sending one has to say itself is left to the other handlers."""
        if record.name == _WIRE or self._sender == threading.get_ident():
            return
        try:
            line = self._line(record)
        except ValueError:
            # A field that is no name; logging's own way to say so, which ends nothing.
            self.handleError(record)
            return
        with self._guard:
            if len(self._waiting) == MOST_WAITING:
                self._waiting.popleft()
                self._left_out += 1
            self._waiting.append(line)
        self._loop.call_soon_threadsafe(self._came.set)

    def _line(self, record: logging.LogRecord) -> LogLine:
        about = {**get_contextvars(), **record.__dict__}
        return LogLine(
            at=datetime.fromtimestamp(record.created, UTC),
            level=_level(record.levelno),
            logger=_sendable(record.name)[:128],
            text=_sendable(self.format(record))[-LONGEST:],
            device=about.get("device"),
            reservation=about.get("reservation"),
        )

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                sent = self._send_next()
                await asyncio.sleep(_PAUSE if sent else _AWAY)

    def flush(self) -> None:
        """Send what waits, now or never."""
        there = True
        while self._waiting and there:
            there = self._send_next()

    def _send_next(self) -> bool:
        """Send the oldest line that waits, and tell whether there was a connection for it."""
        with self._guard:
            line, left_out = self._waiting.popleft(), self._left_out
            self._left_out = 0
        told = line
        if left_out:
            text = f"({left_out:,} lines before this one were left out) {line.text}"
            told = line.model_copy(update={"text": text[:LONGEST]})
        self._sender = threading.get_ident()
        try:
            self._connection.send(self._topic, told.encode(), CONTENT_TYPE)
        except ConnectionLostError:
            with self._guard:
                if len(self._waiting) == MOST_WAITING:
                    self._left_out += 1
                else:
                    self._waiting.appendleft(line)
                self._left_out += left_out
            return False
        finally:
            self._sender = None
        return True


def _level(number: int) -> LogLevel:
    if number >= logging.ERROR:
        return LogLevel.ERROR
    return LogLevel.WARNING if number >= logging.WARNING else LogLevel.INFO


def _sendable(text: str) -> str:
    """Without what no payload may have: NUL, and halves of characters."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="replace").decode()
