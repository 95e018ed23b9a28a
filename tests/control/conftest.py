"""A database with tables, and a farm's worth of devices in it."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio

from icefarm_control.database import Database, migrate
from icefarm_control.inventory import Inventory, Reports
from icefarm_schemas import DeviceState, DeviceStatus, utc_now


@pytest.fixture(scope="module")
def empty_database(postgres: str) -> Iterator[str]:
    """A database with tables that a module's examples share, one after the other."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE shared")
        url = postgres.replace("/postgres?", "/shared?")
        migrate(url)
        yield url
        connection.execute("DROP DATABASE shared WITH (FORCE)")


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Open, migrated and empty."""
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


def a_device(
    status: DeviceStatus = DeviceStatus.AVAILABLE, behaviours: tuple[str, ...] = ("pulsecount",)
) -> DeviceState:
    """As an agent reports it."""
    return DeviceState(status=status, product="p", behaviours=behaviours, since=utc_now())


async def report(
    database: Database, *names: str, agent: str = "pi", state: DeviceState | None = None
) -> None:
    """Bring devices of an agent that is online into the database."""
    inventory = Inventory()
    inventory._online.add(agent)
    reports = Reports(devices={(agent, name): state or a_device() for name in names})
    await database.transaction(lambda cursor: inventory.write(cursor, reports))
