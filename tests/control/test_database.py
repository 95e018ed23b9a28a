import asyncio

import psycopg
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from icefarm_control import reservations, tables
from icefarm_control.database import Cursor, Database, migrate
from icefarm_control.inventory import Inventory
from icefarm_control.reservations import Held
from icefarm_schemas import ReserveRequest

from .conftest import report


def test_the_migrations_make_the_tables_that_the_models_describe(database_url: str) -> None:
    migrate(database_url)
    migrate(database_url)
    assert tables.Device.__tablename__ == "device"
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database_url)
    )
    with engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    engine.dispose()
    assert difference == []


async def test_work_is_done_again_when_the_database_was_lost(
    database: Database, database_url: str
) -> None:
    await report(database, "a")
    attempts = 0
    loaded: list[Held] = []

    async def load(cursor: Cursor) -> None:
        loaded.extend(await reservations.live_reservations(cursor))

    async def work(cursor: Cursor) -> Held:
        nonlocal attempts
        attempts += 1
        request = ReserveRequest(behaviour="pulsecount", count=1)
        held = await reservations.reserve(cursor, "ann", "s", request)
        if attempts == 1:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
        return held

    database.on_reconnect = load
    held = await database.transaction(work)
    assert attempts == 2
    assert loaded == []
    assert await database.transaction(reservations.live_reservations) == [held]


async def test_a_second_control_stands_by_until_the_first_is_gone(
    database: Database, database_url: str
) -> None:
    second = Database(database_url)
    opening = asyncio.create_task(second.open())
    done, _ = await asyncio.wait([opening], timeout=0.5)
    assert not done
    await database.close()
    await asyncio.wait_for(opening, 10)
    await second.close()


def test_an_inventory_without_news_has_nothing_to_write() -> None:
    assert not Inventory().waiting
