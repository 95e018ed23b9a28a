"""A database with tables, and a farm's worth of devices in it."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from icefarm_control.asked import Asked, carry_out, refuse
from icefarm_control.database import Database, migrate
from icefarm_control.inventory import Inventory, Reports
from icefarm_control.refusals import RefusedError, check_lease
from icefarm_schemas import (
    DeviceState,
    DeviceStatus,
    Message,
    Operation,
    Reply,
    ReservationState,
    ReserveRequest,
    utc_now,
)


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


async def ask(database: Database, operation: Operation, request: Message, **who: str) -> Reply:
    """Have a request answered as control does, without a broker in between."""
    asked = Asked(
        who.get("client", "ann"),
        who.get("session", "s"),
        secrets.token_bytes(8),
        operation,
        request,
    )
    check_lease(request)
    [payload] = await carry_out(database, [asked])
    payload = payload or await refuse(database, database, asked)
    assert payload is not None  # It is wanted for ever.
    reply = Reply.model_validate_json(payload)
    if reply.error is not None:
        raise RefusedError(reply.error.code, reply.error.message, **reply.error.details)
    return reply


async def ask_about(
    database: Database, operation: Operation, request: Message, **who: str
) -> tuple[ReservationState, ...]:
    """The reservations in the answer."""
    reply = await ask(database, operation, request, **who)
    assert reply.reservations is not None
    return reply.reservations


async def reserve(database: Database, client: str = "ann", **fields: Any) -> ReservationState:
    """Reserve boards that count pulses, unless other fields are given."""
    request = ReserveRequest(**{"behaviour": "pulsecount", **fields})
    [state] = await ask_about(database, Operation.RESERVE, request, client=client)
    return state


async def live(database: Database) -> list[ReservationState]:
    """All reservations that are not over, the queue in its order."""
    rows = await database.call(
        "SELECT state_of(id) AS state FROM reservation WHERE status <> 'ended'"
    )
    states = [ReservationState.model_validate(row["state"]) for row in rows]
    return sorted(states, key=lambda state: state.position or 0)


def a_device(
    status: DeviceStatus = DeviceStatus.AVAILABLE,
    behaviours: tuple[str, ...] = ("pulsecount",),
    **fields: Any,
) -> DeviceState:
    """As an agent reports it."""
    known = {"product": "p", "since": utc_now()} | fields
    return DeviceState(status=status, behaviours=behaviours, **known)


async def report(
    database: Database,
    *names: str,
    agent: str = "pi",
    state: DeviceState | None = None,
    online: bool = True,
) -> None:
    """Bring devices of an agent into the database."""
    inventory = Inventory()
    if online:
        inventory._online.add(agent)
    reports = Reports(devices={(agent, name): state or a_device() for name in names})
    await database.transaction(lambda cursor: inventory.write(cursor, reports))
