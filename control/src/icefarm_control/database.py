"""The connection to Postgres: one, used by one piece of work at a time, and made again when lost.

Whoever holds the advisory lock on it is the control process that works; another that is started
on the same database stands by and takes over when the first one dies.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow, dict_row

Cursor = AsyncCursor[DictRow]
_Result = TypeVar("_Result")

# Any number that no other program uses on this database.
_ACTIVE_CONTROL_LOCK = 1_229_145_426

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

log = logging.getLogger(__name__)


def migrate(url: str) -> None:
    """Bring the tables up to date.

    Raises:
        psycopg.OperationalError, sqlalchemy.exc.OperationalError: the database cannot be reached.
    """
    config = Config()
    config.set_main_option("script_location", "icefarm_control:migrations")
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


class Database:
    """The one connection. `url` is a libpq URL or connection string."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AsyncConnection[DictRow] | None = None
        self._reconnected = False
        self.on_reconnect: Callable[[Cursor], Awaitable[None]] | None = None
        """Called on every connection but the first, since what was committed last is unknown."""

    async def open(self) -> None:
        """Connect, bring the tables up to date and become the active control process."""
        self._connection = await self._connect()

    async def close(self) -> None:
        """End the connection, which lets another control process take over."""
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self) -> AsyncConnection[DictRow]:
        pause = _FIRST_PAUSE
        while True:
            try:
                await asyncio.to_thread(migrate, self._url)
                connection: AsyncConnection[DictRow] = await AsyncConnection.connect(
                    self._url, autocommit=True, row_factory=dict_row
                )
                await self._become_active(connection)
                return connection
            except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
                log.warning("the database does not answer (trying again): %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @staticmethod
    async def _become_active(connection: AsyncConnection[DictRow]) -> None:
        key = (_ACTIVE_CONTROL_LOCK,)
        taken = await connection.execute("SELECT pg_try_advisory_lock(%s) AS ours", key)
        row = await taken.fetchone()
        if row is None or not row["ours"]:
            log.info("another control process is active on this database; standing by")
            await connection.execute("SELECT pg_advisory_lock(%s)", key)

    async def transaction(self, work: Callable[[Cursor], Awaitable[_Result]]) -> _Result:
        """Do `work` in one transaction; again, when the database was lost in the middle of it.

        `work` must therefore be harmless to repeat: it may have been committed already.
        """
        while True:
            connection = self._connection
            if connection is None:
                raise RuntimeError("the database has not been opened")
            try:
                if self._reconnected and self.on_reconnect is not None:
                    async with connection.cursor() as cursor:
                        await self.on_reconnect(cursor)
                self._reconnected = False
                async with connection.transaction(), connection.cursor() as cursor:
                    return await work(cursor)
            except psycopg.OperationalError as error:
                if not connection.closed:
                    raise
                log.warning("lost the database: %s", error)
            self._connection = await self._connect()
            self._reconnected = True


async def all_rows(cursor: Cursor, query: Any, parameters: dict[str, Any]) -> list[DictRow]:
    """Run a query and return its rows."""
    await cursor.execute(query, parameters)
    return await cursor.fetchall()
