"""Reading the database for a page, at once or not at all, and hearing when something changes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from icefarm_control.database import all_rows, connect
from icefarm_control.leadership import CHANGED, CHANNEL
from icefarm_schemas import utc_now

_PATIENCE = 2.0
"""Seconds for which a page waits for a connection to the database."""
_LONGEST_QUERY = 10
"""Seconds."""
_BEAT = 2.0
"""Seconds between looks at whether the database is still there."""
_PAUSE = 0.5

log = logging.getLogger(__name__)


class DatabaseAwayError(Exception):
    """The database does not answer now."""


class Changes:
    """Tells those who wait that the farm may look different now.

    `database_away` says since when the database has not answered, `why_away` what it said.
    """

    def __init__(self) -> None:
        self.version = 0
        self.database_away: datetime | None = None
        self.why_away = ""
        self.is_over = False
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Nothing will change any more: who waits is to go."""
        self.is_over = True
        self.tell()

    async def after(self, version: int, patience: float) -> None:
        """Return when there was a change after `version`, or when `patience` seconds are over."""
        if self.version == version and not self.is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._changed.wait()

    def lose(self, why: str) -> None:
        """The database does not answer."""
        if self.database_away is None:
            self.database_away, self.why_away = utc_now(), why
            self.tell()

    async def listen(self, url: str) -> None:
        """Hear from the database, for ever."""
        while True:
            try:
                connection = await connect(url)
                try:
                    await connection.execute(f"LISTEN {CHANGED}")
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.database_away = None
                    # What was told meanwhile was not heard.
                    self.tell()
                    while True:
                        async for _ in connection.notifies(timeout=_BEAT, stop_after=1):
                            self.tell()
                        await connection.execute("SELECT")
                finally:
                    await connection.close()
            except psycopg.Error as error:
                self.lose(_first_line(error))
            await asyncio.sleep(_PAUSE)


class Reading:
    """Some connections to the database that can change nothing."""

    def __init__(self, url: str, changes: Changes) -> None:
        self._changes = changes
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=4,
            open=False,
            timeout=_PATIENCE,
            check=AsyncConnectionPool.check_connection,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": 5,
                "options": "-c TimeZone=UTC -c default_transaction_read_only=on "
                f"-c statement_timeout={_LONGEST_QUERY}s",
            },
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep connections as long as the block, whether or not the database is there."""
        await self._pool.open(wait=False)
        try:
            yield
        finally:
            await self._pool.close()

    async def rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[DictRow]:
        """What a query finds.

        Raises:
            DatabaseAwayError: the database does not answer.
        """
        if self._changes.database_away is not None:
            raise DatabaseAwayError(self._changes.why_away)
        # A browser that goes meanwhile would cost a connection, and a warning.
        return await asyncio.shield(self._read(query, parameters or {}))

    async def _read(self, query: str, parameters: dict[str, Any]) -> list[DictRow]:
        try:
            async with self._pool.connection() as connection, connection.cursor() as cursor:
                return await all_rows(cursor, query, parameters)
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable, PoolTimeout) as error:
            if not isinstance(error, psycopg.errors.QueryCanceled):
                self._changes.lose(_first_line(error))
            raise DatabaseAwayError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
