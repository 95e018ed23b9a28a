import asyncio
import time
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from icefarm_control import leadership, tables
from icefarm_control.clock import Clock
from icefarm_control.database import Cursor, Database, all_rows, migrate
from icefarm_control.inventory import Inventory
from icefarm_control.leadership import Leadership, LeadershipLostError

from .conftest import live, report, reserve


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
    attempts = 0

    async def work(cursor: Cursor) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
        [row] = await all_rows(cursor, "SELECT 7 AS n", {})
        n: int = row["n"]
        return n

    assert await database.transaction(work) == 7
    assert attempts == 2


async def test_one_that_stands_still_in_a_transaction_does_not_hold_up_the_others(
    database: Database, database_url: str
) -> None:
    await report(database, "a")
    attempts = 0

    async def work(cursor: Cursor) -> None:
        nonlocal attempts
        attempts += 1
        await all_rows(cursor, "SELECT FROM device FOR UPDATE", {})
        if attempts == 1:
            # As a process that is stopped: its event loop stands still.
            _lock_devices(database_url)

    await database.transaction(work)
    assert attempts == 2


def _lock_devices(url: str) -> None:
    with psycopg.connect(url, options="-c lock_timeout=30s") as other:
        other.execute("SELECT FROM device FOR UPDATE")


async def test_the_leadership_goes_to_the_next_when_a_leader_is_gone(
    database: Database, database_url: str
) -> None:
    async with Leadership(database_url) as first:
        second = Leadership(database_url)
        taking = asyncio.create_task(second.__aenter__())
        done, _ = await asyncio.wait([taking], timeout=1.5)
        assert not done
        # The leader hears of what happens, though nobody but the database tells it.
        transitions = first.transitions()
        await database.call("NOTIFY transition")
        await anext(transitions)
    await taking
    await second.__aexit__(None, None, None)


async def test_a_leader_that_is_silent_is_ended(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "_SILENT", 0.5)
    async with Leadership(database_url) as stopped, Leadership(database_url) as next_one:
        await database.call("NOTIFY transition")
        await anext(next_one.transitions())
        with pytest.raises(LeadershipLostError):
            await anext(stopped.transitions())


async def test_all_times_are_moved_when_the_clock_was_set(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await report(database, "a", "b")
    held = await reserve(database, count=1, duration=600)
    waiting = await reserve(database, count=2, wait=60)
    clock = Clock()
    assert await clock.check(database) == 0
    assert await clock.check(database) == 0
    # As if it had been set back by an hour since; a look may take a while on a busy machine.
    by_an_hour = pytest.approx(-3600, abs=60)
    assert clock._last is not None
    clock._last = (clock._last[0] + 3600, clock._last[1])
    assert await clock.check(database) == by_an_hour
    assert await clock.check(database) == 0
    after = {state.reservation: state for state in await live(database)}
    assert held.expires_at is not None
    ends = after[held.reservation].expires_at
    assert ends is not None
    assert (ends - held.expires_at).total_seconds() == by_an_hour
    waits = after[waiting.reservation].waits_until
    assert waits is not None
    assert waiting.waits_until is not None
    assert (waits - waiting.waits_until).total_seconds() == by_an_hour


async def test_an_answer_that_comes_late_is_no_jump_of_the_clock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    assert await clock.check(database) == 0
    # As if this process had been stopped for a while, after the database has answered.
    late = iter([0.0, 10.0])
    with monkeypatch.context() as stopped:
        there = SimpleNamespace(monotonic=lambda: time.monotonic() + next(late))
        stopped.setattr("icefarm_control.clock.time", there)
        assert await clock.check(database) == 0
    assert await clock.check(database) == 0


def test_an_inventory_without_news_has_nothing_to_write() -> None:
    assert not Inventory().waiting
