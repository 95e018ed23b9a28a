"""Who waits is served in order, by the database alone."""

import asyncio
from typing import Any

import pytest

from icefarm_control.database import Database
from icefarm_control.refusals import RefusedError
from icefarm_schemas import (
    EndReason,
    ExtendRequest,
    Operation,
    ReleaseRequest,
    ReservationState,
    ReservationStatus,
)

from . import conftest
from .conftest import a_device, ask_about, live, report


async def reserve(database: Database, client: str = "ann", **fields: Any) -> ReservationState:
    return await conftest.reserve(database, client, **{"wait": 60, **fields})


async def release(database: Database, reservation: str) -> ReservationState:
    request = ReleaseRequest(reservations=(reservation,))
    [state] = await ask_about(database, Operation.RELEASE, request)
    return state


async def serve(database: Database) -> list[str]:
    """Let those be served whose turn it is; return them."""
    waited = {state.reservation for state in await live(database) if state.position}
    await database.call("SELECT serve_queue()")
    states = await live(database)
    return [s.reservation for s in states if s.reservation in waited and s.position is None]


async def places(database: Database) -> dict[str, tuple[str, int | None]]:
    return {state.reservation: (state.status, state.position) for state in await live(database)}


async def test_first_come_first_served_within_a_priority(database: Database) -> None:
    await report(database, "a")
    holder = (await reserve(database, count=1)).reservation
    low = (await reserve(database, count=1, priority=-1)).reservation
    early = (await reserve(database, count=1)).reservation
    late = (await reserve(database, count=1)).reservation
    high = (await reserve(database, count=1, priority=1)).reservation
    queue = [high, early, late, low]
    expected = {waiting: ("queued", n) for n, waiting in enumerate(queue, 1)}
    assert await places(database) == {holder: ("active", None), **expected}
    for waiting in queue:
        assert await serve(database) == []
        await release(database, holder)
        assert await serve(database) == [waiting]
        holder = waiting


async def test_a_small_request_does_not_pass_a_big_one_that_it_would_delay(
    database: Database,
) -> None:
    await report(database, "a", "b", "c")
    await report(database, "v", state=a_device(behaviours=("variance",)))
    holder = await reserve(database, devices=("a",), wait=None)
    big = await reserve(database, count=3)
    small = await reserve(database, count=1)
    assert [big.status, small.status] == ["queued", "queued"]
    assert (await reserve(database, count=1, behaviour="variance")).status == "active"
    with pytest.raises(RefusedError, match="2 of 3 free, and 2 reservations are in the queue"):
        await reserve(database, count=1, wait=None)
    await release(database, holder.reservation)
    assert await serve(database) == [big.reservation]


async def test_a_request_passes_one_that_it_does_not_delay(database: Database) -> None:
    await report(database, "a", "b")
    holder = await reserve(database, devices=("a",), wait=None)
    wants_a = await reserve(database, devices=("a",))
    assert wants_a.status is ReservationStatus.QUEUED
    assert (await reserve(database, devices=("b",))).status is ReservationStatus.ACTIVE
    assert await serve(database) == []
    await release(database, holder.reservation)
    assert await serve(database) == [wants_a.reservation]


async def test_waiting_ends(database: Database) -> None:
    await report(database, "a")
    await reserve(database, count=1)
    short = await reserve(database, count=1, wait=0.01)
    given_up = await reserve(database, count=1)
    gone = await reserve(database, "bob", count=1)
    request = ExtendRequest(reservations=(given_up.reservation,))
    with pytest.raises(RefusedError, match="is still queued"):
        await ask_about(database, Operation.EXTEND, request)
    # Of all, what is queued is left out.
    assert len(await ask_about(database, Operation.EXTEND, ExtendRequest(all=True))) == 1
    await asyncio.sleep(0.02)
    await database.call("SELECT look_at_time()")
    assert await the_end(database, short.reservation) is EndReason.NOT_SERVED
    assert (await release(database, given_up.reservation)).devices == ()
    await database.call("SELECT end_session('bob', 's')")
    assert await the_end(database, gone.reservation) is EndReason.SESSION_GONE
    assert len(await live(database)) == 1


async def the_end(database: Database, reservation: str) -> EndReason | None:
    [row] = await database.call("SELECT state_of(%(id)s) AS state", {"id": reservation})
    return ReservationState.model_validate(row["state"]).reason


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"count": 3}, "3 asked for, 0 of 2 free"),
        ({"devices": ("zz",)}, "no board 'zz'"),
        ({"count": 1, "behaviour": "dance"}, "no board offers 'dance'"),
    ],
)
async def test_what_can_never_be_served_does_not_wait(
    database: Database, fields: dict[str, Any], words: str
) -> None:
    await report(database, "a", "b")
    await reserve(database, count=2)
    with pytest.raises(RefusedError, match=words):
        await reserve(database, **fields)
    assert len(await live(database)) == 1
