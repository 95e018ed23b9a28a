import asyncio
import re
from typing import Any

import psycopg
import pytest

from icefarm_control.asked import Asked, carry_out
from icefarm_control.database import Database
from icefarm_control.inventory import Inventory, Reports
from icefarm_control.refusals import RefusedError
from icefarm_schemas import (
    DeviceStatus,
    EndReason,
    ErrorCode,
    ExtendRequest,
    OnSessionEnd,
    Operation,
    ReleaseRequest,
    Reply,
    ReservationState,
    ReservationStatus,
    ReserveRequest,
)

from .conftest import a_device, ask_about, live, report, reserve


async def release(
    database: Database, held: ReservationState, client: str = "ann"
) -> ReservationState:
    request = ReleaseRequest(reservations=(held.reservation,))
    [state] = await ask_about(database, Operation.RELEASE, request, client=client)
    return state


def names(held: ReservationState) -> list[str]:
    return [device.device for device in held.devices]


async def refused(code: ErrorCode, database: Database, **fields: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await reserve(database, **fields)
    assert caught.value.error.code is code
    return caught.value


async def test_boards_are_reserved_and_given_back(database: Database) -> None:
    await report(database, "a", "b", "c")
    first = await reserve(database, count=2)
    assert names(first) == ["a", "b"]
    assert first.status is ReservationStatus.ACTIVE
    second = await reserve(database, devices=("c",))
    refusal = await refused(ErrorCode.NOT_AVAILABLE, database, count=1)
    assert str(refusal) == "not enough boards with 'pulsecount': 1 asked for, 0 of 3 free"
    ended = await release(database, first)
    assert ended.status is ReservationStatus.ENDED
    assert ended.reason is EndReason.RELEASED
    assert names(await reserve(database, count=2)) == ["a", "b"]
    now = await live(database)
    assert second in now
    assert first not in now


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
    request = ExtendRequest(reservations=(held.reservation,), duration=7200)
    [longer] = await ask_about(database, Operation.EXTEND, request)
    assert longer.expires_at is not None
    assert held.expires_at is not None
    assert (longer.expires_at - held.expires_at).total_seconds() > 3000
    await release(database, held)
    with pytest.raises(RefusedError, match="is over: released"):
        await release(database, held)
    with pytest.raises(RefusedError, match="is over: released"):
        await ask_about(database, Operation.EXTEND, request)
    with pytest.raises(RefusedError, match="there is no reservation 'x'"):
        await ask_about(database, Operation.RELEASE, ReleaseRequest(reservations=("x",)))


async def look_at_time(database: Database) -> float | None:
    [row] = await database.call("SELECT look_at_time() AS seconds")
    seconds: float | None = row["seconds"]
    return seconds


async def state_of(database: Database, held: ReservationState) -> ReservationState:
    [row] = await database.call("SELECT state_of(%(id)s) AS state", {"id": held.reservation})
    return ReservationState.model_validate(row["state"])


async def test_a_lease_that_is_over_ends_its_reservation(database: Database) -> None:
    await report(database, "a", "b")
    short = await reserve(database, count=1, duration=0.01)
    long = await reserve(database, count=1, duration=2400)
    await asyncio.sleep(0.02)
    seconds = await look_at_time(database)
    assert (await state_of(database, short)).reason is EndReason.EXPIRED
    assert await live(database) == [long]
    # The next is the warning, five minutes before the end.
    assert seconds is not None
    assert 2090 < seconds <= 2100


async def test_the_end_of_a_session_ends_what_it_did_not_keep(database: Database) -> None:
    await report(database, "a", "b")
    held = await reserve(database, count=1)
    kept = await reserve(database, count=1, on_session_end=OnSessionEnd.KEEP)
    await database.call("SELECT end_session('ann', 's')")
    assert (await state_of(database, held)).reason is EndReason.SESSION_GONE
    assert await live(database) == [kept]


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


async def test_many_processes_never_give_a_device_twice(
    database: Database, database_url: str
) -> None:
    """Each with a connection of its own and several requests in one transaction."""
    await report(database, *(f"d{n}" for n in range(6)))
    held_now: set[str] = set()
    granted = 0

    async def contend(client: str) -> None:
        nonlocal granted
        own = Database(database_url)
        await own.open()
        for round_ in range(30):
            replies = await carry_out(
                own,
                [
                    Asked(
                        client,
                        "s",
                        f"{round_}-{n}".encode(),
                        Operation.RESERVE,
                        ReserveRequest(behaviour="pulsecount", count=1 + n),
                    )
                    for n in range(2)
                ],
            )
            for reply in map(Reply.model_validate_json, filter(None, replies)):
                for held in reply.reservations or ():
                    devices = set(names(held))
                    assert not devices & held_now
                    held_now.update(devices)
                    granted += 1
            await asyncio.sleep(0)
            for held in await live(own):
                if held.client == client:
                    held_now.difference_update(names(held))
                    await release(own, held, client)
        await own.close()

    await asyncio.gather(*(contend(f"client-{n}") for n in range(6)))
    assert granted > 60
    assert await live(database) == []


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
                INSERT INTO allocation
                    (reservation, agent, device, behaviour, arguments, started_at)
                SELECT id, 'pi', 'a', 'pulsecount', '{}', now() FROM r
                """
            )
