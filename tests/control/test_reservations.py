import asyncio
import re
from typing import Any

import psycopg
import psycopg.rows
import pytest

from icefarm_control import reservations
from icefarm_control.database import Database
from icefarm_control.inventory import Inventory, Reports
from icefarm_control.refusal import RefusedError
from icefarm_control.reservations import Held
from icefarm_schemas import (
    DeviceStatus,
    EndReason,
    ErrorCode,
    ExtendRequest,
    OnSessionEnd,
    ReleaseRequest,
    ReservationStatus,
    ReserveRequest,
)

from .conftest import a_device, report


async def reserve(database: Database, client: str = "ann", **fields: Any) -> Held:
    request = ReserveRequest(behaviour=fields.pop("behaviour", "pulsecount"), **fields)
    return await database.transaction(
        lambda cursor: reservations.reserve(cursor, client, "s", request)
    )


async def release(database: Database, held: Held, client: str = "ann") -> Held:
    request = ReleaseRequest(reservation=held.state.reservation)
    return await database.transaction(lambda cursor: reservations.release(cursor, client, request))


def names(held: Held) -> list[str]:
    return [device.device for device in held.state.devices]


async def refused(code: ErrorCode, database: Database, **fields: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await reserve(database, **fields)
    assert caught.value.error.code is code
    return caught.value


async def test_boards_are_reserved_and_given_back(database: Database) -> None:
    await report(database, "a", "b", "c")
    first = await reserve(database, count=2)
    assert names(first) == ["a", "b"]
    assert first.state.status is ReservationStatus.ACTIVE
    second = await reserve(database, devices=("c",))
    refusal = await refused(ErrorCode.NOT_AVAILABLE, database, count=1)
    assert str(refusal) == "not enough boards with 'pulsecount': 1 asked for, 0 of 3 free"
    ended = await release(database, first)
    assert ended.state.status is ReservationStatus.ENDED
    assert ended.state.reason is EndReason.RELEASED
    assert names(await reserve(database, count=2)) == ["a", "b"]
    live = await database.transaction(reservations.live_reservations)
    assert second in live
    assert first not in live


async def test_all_or_nothing(database: Database) -> None:
    await report(database, "a", "b")
    await reserve(database, devices=("b",))
    await refused(ErrorCode.NOT_AVAILABLE, database, count=2)
    await refused(ErrorCode.NOT_AVAILABLE, database, devices=("a", "b"))
    assert names(await reserve(database, count=1)) == ["a"]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"count": 9}, ErrorCode.NOT_AVAILABLE, "with 'pulsecount': 9 asked for, 1 of 2 free"),
        ({"devices": ("a", "zz")}, ErrorCode.NO_SUCH_DEVICE, "no board 'zz'"),
        ({"devices": ("b",)}, ErrorCode.NOT_AVAILABLE, "'b' is broken"),
        ({"count": 1, "behaviour": "x"}, ErrorCode.NO_SUCH_BEHAVIOUR, "boards offer: pulsecount"),
        ({"devices": ("a",), "behaviour": "x"}, ErrorCode.NO_SUCH_BEHAVIOUR, "'a' does not offer"),
        ({"count": 1, "duration": 1e6}, ErrorCode.LIMIT_EXCEEDED, "86400 s are allowed"),
    ],
)
async def test_a_refusal_says_why(
    database: Database, fields: dict[str, Any], code: ErrorCode, words: str
) -> None:
    await report(database, "a")
    await report(database, "b", state=a_device(DeviceStatus.BROKEN))
    refusal = await refused(code, database, **fields)
    assert re.search(words, str(refusal))


async def test_only_the_holder_may_extend_or_release(database: Database) -> None:
    await report(database, "a")
    held = await reserve(database, count=1)
    with pytest.raises(RefusedError, match="held by somebody else, not by 'bob'"):
        await release(database, held, client="bob")
    request = ExtendRequest(reservation=held.state.reservation, duration=7200)
    longer = await database.transaction(lambda c: reservations.extend(c, "ann", request))
    assert longer.state.expires_at is not None
    assert held.state.expires_at is not None
    assert (longer.state.expires_at - held.state.expires_at).total_seconds() > 3000
    await release(database, held)
    with pytest.raises(RefusedError, match="is over: released"):
        await release(database, held)
    with pytest.raises(RefusedError, match="is over: released"):
        await database.transaction(lambda c: reservations.extend(c, "ann", request))
    with pytest.raises(RefusedError, match="there is no reservation 'x'"):
        await database.transaction(
            lambda c: reservations.release(c, "ann", ReleaseRequest(reservation="x"))
        )


async def test_a_lease_that_is_over_ends_its_reservation(database: Database) -> None:
    await report(database, "a", "b")
    short = await reserve(database, count=1, duration=0.01)
    long = await reserve(database, count=1)
    await asyncio.sleep(0.02)
    [ended] = await database.transaction(reservations.end_expired)
    assert ended.state.reservation == short.state.reservation
    assert ended.state.reason is EndReason.EXPIRED
    assert await database.transaction(reservations.live_reservations) == [long]
    seconds = await database.transaction(reservations.seconds_to_next_expiry)
    assert seconds is not None
    assert 3590 < seconds <= 3600


async def test_the_end_of_a_session_ends_what_it_did_not_keep(database: Database) -> None:
    await report(database, "a", "b")
    await reserve(database, count=1)
    kept = await reserve(database, count=1, on_session_end=OnSessionEnd.KEEP)
    assert await database.transaction(reservations.sessions_that_matter) == {("ann", "s")}
    [ended] = await database.transaction(lambda c: reservations.end_session(c, "ann", "s"))
    assert ended.state.reason is EndReason.SESSION_GONE
    assert await database.transaction(reservations.live_reservations) == [kept]


async def test_a_held_device_that_is_gone_is_forgotten_with_its_reservation(
    database: Database,
) -> None:
    await report(database, "a", "b")
    held = await reserve(database, devices=("a",))
    gone = Reports(devices={("pi", "a"): None, ("pi", "b"): None})
    await database.transaction(lambda cursor: Inventory().write(cursor, gone))
    await refused(ErrorCode.NO_SUCH_DEVICE, database, devices=("b",))
    refusal = await refused(ErrorCode.NOT_AVAILABLE, database, devices=("a",))
    assert "held by another reservation" in str(refusal)
    await release(database, held)
    await refused(ErrorCode.NO_SUCH_DEVICE, database, devices=("a",))


async def test_many_connections_never_give_a_device_twice(
    database: Database, database_url: str
) -> None:
    """Without the control process in between: the database alone guarantees it."""
    await report(database, *(f"d{n}" for n in range(6)))
    held_now: set[str] = set()
    granted = 0

    async def contend(client: str) -> None:
        nonlocal granted
        async with await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, row_factory=psycopg.rows.dict_row
        ) as connection:
            for _ in range(40):
                try:
                    async with connection.transaction(), connection.cursor() as cursor:
                        held = await reservations.reserve(
                            cursor, client, "s", ReserveRequest(behaviour="pulsecount", count=2)
                        )
                except RefusedError:
                    await asyncio.sleep(0.001)
                    continue
                devices = set(names(held))
                assert not devices & held_now
                held_now.update(devices)
                granted += 1
                await asyncio.sleep(0)
                held_now.difference_update(devices)
                async with connection.transaction(), connection.cursor() as cursor:
                    request = ReleaseRequest(reservation=held.state.reservation)
                    await reservations.release(cursor, client, request)

    await asyncio.gather(*(contend(f"client-{n}") for n in range(8)))
    assert granted > 20
    assert await database.transaction(reservations.live_reservations) == []


async def test_a_second_live_allocation_of_a_device_is_impossible(database: Database) -> None:
    await report(database, "a")
    await reserve(database, count=1)
    with pytest.raises(psycopg.errors.UniqueViolation, match="one_live_allocation_per_device"):
        async with database._connection.cursor() as cursor:  # type: ignore[union-attr]
            await cursor.execute(
                """
                WITH r AS (
                    INSERT INTO reservation
                    SELECT (jsonb_populate_record(reservation, '{"id": "other"}')).*
                    FROM reservation
                    RETURNING id
                )
                INSERT INTO allocation SELECT id, 'pi', 'a', now() FROM r
                """
            )
