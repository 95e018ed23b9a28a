"""A connection to Postgres: used by one piece of work at a time, and made again when it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow, dict_row

Cursor = AsyncCursor[DictRow]
_Result = TypeVar("_Result")

_MIGRATION_LOCK = 1_229_145_428
_FUNCTIONS = [
    f"functions/{name}.sql" for name in ("reservation", "requests", "operators", "leading")
]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_LONGEST_STOP = 5
"""Seconds for which a process may stand still in the middle of a transaction, and all others with
it that want the same boards; then the database ends the transaction."""

log = logging.getLogger(__name__)


def migrate(url: str) -> None:
    """Bring the tables up to date, and the functions with them.

    Raises:
        psycopg.OperationalError, sqlalchemy.exc.OperationalError: the database cannot be reached.
    """
    config = Config()
    config.set_main_option("script_location", "icefarm_control:migrations")
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with engine.begin() as connection:
        # Several control processes may start at once.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        driver: Any = connection.connection.driver_connection
        for file in _FUNCTIONS:
            driver.execute(resources.files("icefarm_control").joinpath(file).read_text())
    engine.dispose()


async def connect(url: str) -> AsyncConnection[DictRow]:
    """A new connection, as all of control's are.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    return await AsyncConnection.connect(
        url,
        autocommit=True,
        row_factory=dict_row,
        # A server that is silent is one that is lost. Times are written as they are on the wire.
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
        options="-c TimeZone=UTC -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 "
        "-c tcp_keepalives_count=3 "
        f"-c idle_in_transaction_session_timeout={_LONGEST_STOP}s",
    )


class Database:
    """One connection. `url` is a libpq URL or connection string."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AsyncConnection[DictRow] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Bring the tables up to date and connect, for as long as it takes."""
        self._connection = await self._connect(migrating=True)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self, *, migrating: bool = False) -> AsyncConnection[DictRow]:
        pause = _FIRST_PAUSE
        is_told = False
        while True:
            try:
                if migrating:
                    await asyncio.to_thread(migrate, self._url)
                connection = await connect(self._url)
                if is_told:
                    log.info("the database answers again")
                return connection
            except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
                if not is_told:
                    log.warning("the database does not answer (trying again): %s", error)
                is_told = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def transaction(self, work: Callable[[Cursor], Awaitable[_Result]]) -> _Result:
        """Do `work` in one transaction; again, when the database was lost in the middle of it.

        `work` must therefore be harmless to repeat: it may have been committed already.
        """

        async def in_transaction(connection: AsyncConnection[DictRow]) -> _Result:
            async with connection.transaction(), connection.cursor() as cursor:
                return await work(cursor)

        return await self._persist(in_transaction)

    async def call(
        self, query: str, parameters: dict[str, Any] | Callable[[], dict[str, Any]] | None = None
    ) -> list[DictRow]:
        """One statement, a transaction of its own, and its rows; repeated as `transaction` is.

        `parameters` may be a function that is asked for them at each attempt.
        """

        async def one_statement(connection: AsyncConnection[DictRow]) -> list[DictRow]:
            now = parameters() if callable(parameters) else parameters or {}
            async with connection.cursor() as cursor:
                return await all_rows(cursor, query, now)

        return await self._persist(one_statement)

    async def _persist(
        self, work: Callable[[AsyncConnection[DictRow]], Awaitable[_Result]]
    ) -> _Result:
        async with self._one_at_a_time:
            while True:
                connection = self._connection
                if connection is None:
                    raise RuntimeError("the database has not been opened")
                try:
                    return await work(connection)
                except (
                    psycopg.errors.DeadlockDetected,
                    psycopg.errors.SerializationFailure,
                ) as error:
                    log.info("a transaction is done again: %s", error)
                except psycopg.Error as error:
                    # The end of a transaction that took too long is no OperationalError.
                    if not connection.closed:
                        raise
                    log.warning("lost the database: %s", error)
                    self._connection = await self._connect()


async def all_rows(cursor: Cursor, query: Any, parameters: dict[str, Any]) -> list[DictRow]:
    """Run a query and return its rows."""
    await cursor.execute(query, parameters)
    return await cursor.fetchall() if cursor.description is not None else []
