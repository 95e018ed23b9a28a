"""One of the control processes leads: it alone tells the broker, and looks at the time.

It is the one that holds an advisory lock, which Postgres frees when its connection ends. A leader
that is silent, stopped or cut off, keeps its connection and so the lock; the others see that it has
not spoken for a while and end it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from icefarm_control.database import connect

_LOCK = 1_229_145_426
"""Any number that no other program uses on this database."""
CHANNEL = "transition"
"""On which a process that has carried out requests says so."""
CHANGED = "changed"
"""On which the one that leads says that the farm looks different now."""
OPERATED = "operated"
"""What it says when it was an operator's."""
_BEAT = 2.0
"""Seconds between signs of life."""
_SILENT = 8.0
"""Seconds without one after which a leader is ended."""
_LOOK_AGAIN = 0.5

log = logging.getLogger(__name__)


class LeadershipLostError(Exception):
    """The connection that holds the lock is gone; perhaps another process leads already."""


class Leadership:
    """The lock, taken by `async with` as soon as nobody else has it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        """Wait until this process leads.

        Raises:
            LeadershipLostError: the database was lost while waiting.
        """
        try:
            self._connection = await connect(self._url)
            try:
                await self._take_lock()
                await self._connection.execute(f"LISTEN {CHANNEL}")
            except BaseException:
                await self._connection.close()
                raise
        except psycopg.OperationalError as error:
            raise LeadershipLostError(str(error)) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()

    @property
    def condition(self) -> tuple[str, dict[str, int]]:
        """SQL that is true as long as this process leads, and its parameters."""
        held = (
            "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 "
            "AND objid = %(lock)s AND granted AND pid = %(pid)s)"
        )
        return held, {"lock": _LOCK, "pid": self._connection.info.backend_pid}

    async def _take_lock(self) -> None:
        said = False
        while not await _yes(self._connection, "SELECT pg_try_advisory_lock(%s) AS yes", _LOCK):
            if not said:
                log.info("another control process leads; this one is ready to follow it")
                said = True
            await self._connection.execute(
                """
                SELECT pg_terminate_backend(l.pid)
                FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = %s AND l.granted
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND a.state_change < now() - make_interval(secs => %s)
                """,
                (_LOCK, _SILENT),
            )
            await asyncio.sleep(_LOOK_AGAIN)

    async def transitions(self) -> AsyncIterator[str]:
        """Yield what somebody says when there are new ones, for as long as this process leads.

        Raises:
            LeadershipLostError: it does not any more.
        """
        spoke = time.monotonic()
        try:
            while True:
                async for notice in self._connection.notifies(timeout=_BEAT, stop_after=1):
                    yield notice.payload
                if time.monotonic() - spoke > _BEAT / 2:
                    await self._connection.execute("SELECT")
                    spoke = time.monotonic()
        except psycopg.OperationalError as error:
            raise LeadershipLostError(str(error)) from error


async def somebody_leads(connection: AsyncConnection[DictRow]) -> bool:
    """Whether a control process leads, as far as the others would believe it."""
    return await _yes(
        connection,
        """
        SELECT EXISTS (
            SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = %s AND l.granted
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND a.state_change >= now() - make_interval(secs => %s)
        ) AS yes
        """,
        *(_LOCK, _SILENT),
    )


async def _yes(connection: AsyncConnection[DictRow], query: str, *parameters: object) -> bool:
    row = await (await connection.execute(query, parameters)).fetchone()
    return row is not None and bool(row["yes"])
