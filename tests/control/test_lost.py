"""Devices that break, are unplugged or go away with their agent, while somebody holds them."""

import asyncio

from icefarm_control.database import Database
from icefarm_control.inventory import Inventory, Reports
from icefarm_schemas import (
    DeviceStatus,
    HistoryRequest,
    Operation,
    ReservationState,
    ReservationStatus,
)

from .conftest import a_device, ask, report, reserve


async def look_at_time(database: Database) -> float | None:
    [row] = await database.call("SELECT look_at_time() AS seconds")
    seconds: float | None = row["seconds"]
    return seconds


async def now(database: Database, held: ReservationState) -> ReservationState:
    [row] = await database.call("SELECT state_of(%(id)s) AS state", {"id": held.reservation})
    return ReservationState.model_validate(row["state"])


async def boards(database: Database, held: ReservationState) -> list[str]:
    return [device.device for device in (await now(database, held)).devices]


async def agents(database: Database, *online: str, delay: float = 0) -> None:
    """These agents are there, and no other."""
    inventory = Inventory()
    inventory._online.update(online)
    reports = Reports(agents=dict.fromkeys(("pi", "attic")))
    await database.transaction(lambda cursor: inventory.write(cursor, reports, delay))


async def test_who_holds_a_board_of_an_agent_that_is_gone_keeps_the_others(
    database: Database,
) -> None:
    await report(database, "a")
    await report(database, "z", agent="attic")
    held = await reserve(database, count=2, device_grace=60)
    await agents(database, "pi")
    seconds = await look_at_time(database)
    assert seconds is not None
    assert 0 < seconds <= 60
    assert await boards(database, held) == ["z", "a"]
    await database.call("UPDATE device SET away_since = away_since - interval '60 s'")
    await look_at_time(database)
    assert await boards(database, held) == ["a"]
    reply = await ask(database, Operation.HISTORY, HistoryRequest(device="z"))
    assert reply.history is not None
    lost = reply.history[0]
    assert (lost.what, lost.why, lost.devices, lost.by) == (
        "device_lost",
        "agent_gone",
        ("z",),
        None,
    )
    # It is free for others as soon as its agent is back.
    await agents(database, "pi", "attic")
    assert [d.device for d in (await reserve(database, devices=("z",))).devices] == ["z"]


async def test_the_last_board_takes_its_reservation_with_it(database: Database) -> None:
    await report(database, "a")
    held = await reserve(database, count=1, device_grace=0)
    await agents(database)
    await asyncio.sleep(0.01)
    await look_at_time(database)
    ended = await now(database, held)
    assert (ended.status, ended.reason) == (ReservationStatus.ENDED, "devices_lost")
    assert [device.device for device in ended.devices] == ["a"]


async def test_an_agent_that_is_back_in_time_has_lost_nothing(database: Database) -> None:
    await report(database, "a")
    held = await reserve(database, count=1, device_grace=0.05)
    await agents(database)
    await agents(database, "pi")
    await asyncio.sleep(0.06)
    await look_at_time(database)
    assert await boards(database, held) == ["a"]


async def test_an_absence_counts_from_when_it_is_believed(database: Database) -> None:
    await report(database, "a")
    held = await reserve(database, count=1, device_grace=0)
    await agents(database, delay=60)
    await look_at_time(database)
    assert await boards(database, held) == ["a"]


async def test_a_board_that_breaks_is_taken_away_at_once_with_the_reason(
    database: Database,
) -> None:
    await report(database, "a", "b")
    held = await reserve(database, count=2, device_grace=1000)
    broken = a_device(DeviceStatus.BROKEN, detail="its FPGA does not answer")
    await report(database, "b", state=broken)
    await look_at_time(database)
    assert await boards(database, held) == ["a"]
    [row] = await database.call("SELECT * FROM transition WHERE what = 'device_lost'")
    assert (row["why"], row["detail"]) == ("broken", "its FPGA does not answer")


async def test_a_board_that_is_unplugged_has_the_grace_to_be_plugged_in_again(
    database: Database,
) -> None:
    await report(database, "a", "b")
    held = await reserve(database, count=2, device_grace=0.05)
    unplugged = Reports(devices={("pi", "a"): None, ("pi", "b"): None})
    inventory = Inventory()
    inventory._online.add("pi")
    await database.transaction(lambda cursor: inventory.write(cursor, unplugged))
    await report(database, "a", state=a_device(DeviceStatus.PREPARING))
    await asyncio.sleep(0.06)
    await look_at_time(database)
    assert await boards(database, held) == ["a"]
    assert await database.call("SELECT FROM device WHERE name = 'b'") == []


async def test_a_board_that_is_unplugged_is_lost_although_its_agent_comes_and_goes(
    database: Database,
) -> None:
    await report(database, "a", "b")
    held = await reserve(database, count=2, device_grace=0.1)
    inventory = Inventory()
    inventory._online.add("pi")
    unplugged = Reports(devices={("pi", "a"): None})
    await database.transaction(lambda cursor: inventory.write(cursor, unplugged))
    for _ in range(2):
        await asyncio.sleep(0.06)
        await agents(database)
        await agents(database, "pi")
    await look_at_time(database)
    assert await boards(database, held) == ["b"]


async def test_boards_that_the_broker_has_forgotten_can_be_waited_for(database: Database) -> None:
    await report(database, "a", "b")
    inventory = Inventory()
    await database.transaction(lambda cursor: inventory.write(cursor, Reports(snapshot=set())))
    waiting = await reserve(database, count=2, wait=60)
    assert waiting.status is ReservationStatus.QUEUED
    await report(database, "a", "b")
    await database.call("SELECT serve_queue()")
    assert await boards(database, waiting) == ["a", "b"]


async def test_what_does_not_come_back_is_forgotten(database: Database) -> None:
    await report(database, "a", "b")
    inventory = Inventory()
    await database.transaction(
        lambda cursor: inventory.write(cursor, Reports(snapshot={("pi", "a")}))
    )
    await look_at_time(database)
    assert len(await database.call("SELECT FROM device")) == 2
    await database.call("UPDATE device SET away_since = away_since - interval '31 s'")
    await look_at_time(database)
    assert [row["name"] for row in await database.call("SELECT name FROM device")] == ["a"]
