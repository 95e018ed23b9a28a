"""Reading the database for a page, at once or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from icefarm_control.database import all_rows
from icefarm_control.web.changes import Changes, first_line

_PATIENCE = 2.0
"""Seconds for which a page waits for a connection to the database."""
_LONGEST_QUERY = 10
"""Seconds."""


class DatabaseAwayError(Exception):
    """The database does not answer now."""


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
            # Else it would wait between its attempts for as long as the database was away.
            reconnect_timeout=_PATIENCE,
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
                self._changes.lose(first_line(error))
            raise DatabaseAwayError(first_line(error)) from error
