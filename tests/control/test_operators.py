"""What operators do, by the database alone."""

import secrets
from functools import partial
from typing import Any

import pytest

from icefarm_control.database import Database
from icefarm_control.inventory import Inventory, Reports
from icefarm_control.operators import Operator, carry_out
from icefarm_control.refusals import RefusedError
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    AuditEntry,
    AuditRequest,
    DrainRequest,
    EndReason,
    EndRequest,
    ErrorCode,
    ExtendLeasesRequest,
    ForgetAgentsRequest,
    ForgetRequest,
    Message,
    NoteRequest,
    Reply,
    RestartDevicesRequest,
    RestartRequest,
    ResumeRequest,
)

from .conftest import a_device, live, report, reserve

S = AgentStatus


async def operate(
    database: Database, operation: str, request: Message, correlation: bytes | None = None
) -> Reply:
    """Carry out what the operator olga asks for."""
    who = Operator("olga", "s", correlation or secrets.token_bytes(8))
    return await carry_out(database, operation, who, request)


async def refused(database: Database, operation: str, request: Message) -> ErrorCode:
    reply = await operate(database, operation, request)
    assert reply.error is not None
    return reply.error.code


async def an_agent(database: Database, name: str = "pi", **state: Any) -> None:
    """Let an agent report itself, and its devices a and b."""
    inventory = Inventory()
    known = AgentState(**{"status": S.ONLINE, "boot_id": "b1", **state})
    if known.status is not S.OFFLINE:
        inventory._online.add(name)
    devices = {(name, device): a_device() for device in ("a", "b")}
    reports = Reports(agents={name: known}, devices=dict(devices))
    await database.transaction(lambda cursor: inventory.write(cursor, reports))


async def entries(database: Database) -> list[AuditEntry]:
    return list((await operate(database, "audit", AuditRequest())).audit or ())


async def transitions(database: Database) -> list[tuple[str, str | None, str | None]]:
    rows = await database.call("SELECT what, why, by FROM transition ORDER BY number")
    return [(row["what"], row["why"], row["by"]) for row in rows]


async def wanted(database: Database) -> list[dict[str, Any]]:
    return await database.call("SELECT * FROM wanted_of_agents() ORDER BY 1, 2")


async def test_reservations_are_ended_by_id_by_client_and_all(database: Database) -> None:
    await report(database, *"abcd")
    [ann, _, cyd] = [await reserve(database, who, count=1) for who in ("ann", "bob", "cyd")]
    reply = await operate(database, "end", EndRequest(reservations=(ann.reservation,)))
    assert [state.reason for state in reply.reservations or ()] == [EndReason.OPERATOR]
    await operate(database, "end", EndRequest(client="bob"))
    assert [state.reservation for state in await live(database)] == [cyd.reservation]
    await reserve(database, count=4, wait=60)
    await operate(database, "end", EndRequest(all=True))
    assert await live(database) == []
    ends = [step for step in await transitions(database) if step[0] == "ended"]
    assert ends == [("ended", "operator", "olga")] * 4


async def test_of_boards_only_these_leave_and_the_last_one_ends_it(database: Database) -> None:
    await report(database, *"ab")
    held = await reserve(database, count=2)
    [state] = (await operate(database, "end", EndRequest(devices=("pi/a",)))).reservations or ()
    assert [device.device for device in state.devices] == ["b"]
    assert (await transitions(database))[-1] == ("returned", "operator", "olga")
    [state] = (await operate(database, "end", EndRequest(devices=("b",)))).reservations or ()
    assert (state.reservation, state.reason) == (held.reservation, EndReason.OPERATOR)


async def test_a_dry_run_answers_the_same_and_does_nothing(database: Database) -> None:
    await an_agent(database)
    held = await reserve(database, count=1)
    steps = await transitions(database)
    for operation, request in (
        ("end", EndRequest(all=True, dry_run=True)),
        ("extend", ExtendLeasesRequest(client="ann", duration=9, dry_run=True)),
        ("drain", DrainRequest(agents=("pi",), dry_run=True)),
        ("forget", ForgetRequest(devices=("a",), dry_run=True)),
        ("note", NoteRequest(devices=("a",), text="x", dry_run=True)),
    ):
        reply = await operate(database, operation, request)
        assert reply.error is None
    assert await live(database) == [held]
    assert await transitions(database) == steps
    assert await wanted(database) == []
    assert await database.call("SELECT FROM command") == []
    audited = await entries(database)
    assert [entry.dry_run for entry in audited] == [True] * 5
    assert audited[-1].outcome == f"{held.reservation} of ann"
    [dry] = (await operate(database, "end", EndRequest(all=True, dry_run=True))).reservations or ()
    [done] = (await operate(database, "end", EndRequest(all=True))).reservations or ()
    assert dry == done


async def test_leases_are_extended_whoever_has_them(database: Database) -> None:
    await report(database, *"ab")
    for client in ("ann", "bob"):
        await reserve(database, client, count=1, duration=10)
    request = ExtendLeasesRequest(devices=("a", "b"), duration=1000)
    for state in (await operate(database, "extend", request)).reservations or ():
        assert state.expires_at is not None
        [row] = await database.call("SELECT now() + '990 s' AS soon")
        assert state.expires_at > row["soon"]
    too_long = ExtendLeasesRequest(all=True, duration=1e7)
    assert await refused(database, "extend", too_long) is ErrorCode.LIMIT_EXCEEDED


async def test_what_is_not_there_is_refused_and_recorded(database: Database) -> None:
    await an_agent(database, "away", status=S.OFFLINE)
    await an_agent(database)
    held = await reserve(database, devices=("a",))
    queued = await reserve(database, devices=("a",), wait=60)
    await operate(database, "end", EndRequest(reservations=(held.reservation,)))
    code = ErrorCode
    for operation, request, expected in (
        ("end", EndRequest(reservations=("nosuch",)), code.NO_SUCH_RESERVATION),
        ("end", EndRequest(reservations=(held.reservation,)), code.RESERVATION_ENDED),
        (
            "extend",
            ExtendLeasesRequest(reservations=(queued.reservation,), duration=9),
            code.INVALID_REQUEST,
        ),
        ("end", EndRequest(devices=("pi/nosuch",)), code.NO_SUCH_DEVICE),
        ("end", EndRequest(devices=("pi/b",)), code.NO_SUCH_RESERVATION),
        ("drain", DrainRequest(agents=("pi", "nosuch")), code.NO_SUCH_AGENT),
        ("restart", RestartRequest(agents=("away",)), code.NOT_AVAILABLE),
        ("restart_devices", RestartDevicesRequest(devices=("away/a",)), code.NOT_AVAILABLE),
    ):
        assert await refused(database, operation, request) is expected
        [entry, *_] = await entries(database)
        assert (entry.operation, entry.error, entry.who) == (operation, expected, "olga")
    assert await wanted(database) == []


async def test_a_request_that_comes_again_is_carried_out_once(database: Database) -> None:
    await report(database, *"ab")
    await reserve(database, count=1)
    first = await operate(database, "end", EndRequest(all=True), b"same")
    await reserve(database, count=1)
    assert await operate(database, "end", EndRequest(all=True), b"same") == first
    assert len(await live(database)) == 1
    assert len(await entries(database)) == 1


async def test_boards_of_an_agent_that_is_drained_are_given_to_nobody(database: Database) -> None:
    await an_agent(database)
    held = await reserve(database, devices=("a",))
    reply = await operate(database, "drain", DrainRequest(agents=("pi",), deadline=60))
    [agent] = reply.agents or ()
    assert agent.reservations == (held.reservation,)
    with pytest.raises(RefusedError, match="the agent 'pi' of the board 'b' is being drained"):
        await reserve(database, devices=("b",))
    with pytest.raises(RefusedError, match="0 of 2 free"):
        await reserve(database, count=1)
    queued = await reserve(database, count=1, wait=60)
    await database.call("SELECT serve_queue()")
    # A board that is new there is no exception, nor does it matter what the agent says of itself.
    await report(database, "c")
    await an_agent(database)
    await database.call("SELECT serve_queue()")
    assert {state.status for state in await live(database)} == {"active", "queued"}
    await operate(database, "resume", ResumeRequest(all=True))
    await database.call("SELECT serve_queue()")
    assert {state.status for state in await live(database)} == {"active"}
    assert queued.position == 1


async def test_an_agent_that_drains_by_itself_counts_the_same(database: Database) -> None:
    await an_agent(database, status=S.DRAINING)
    with pytest.raises(RefusedError, match="0 of 2 free"):
        await reserve(database, count=1)
    # It is started again.
    await an_agent(database, boot_id="b2")
    await reserve(database, count=1)


async def test_a_drained_agent_gives_its_boards_back_at_its_deadline(database: Database) -> None:
    await an_agent(database)
    await report(database, "x", agent="other")
    held = await reserve(database, count=3)
    await operate(database, "drain", DrainRequest(agents=("pi",), deadline=3600))
    [row] = await database.call("SELECT look_at_time() AS seconds")
    assert row["seconds"] < 3600
    await operate(database, "drain", DrainRequest(agents=("pi",), deadline=0))
    await database.call("SELECT look_at_time()")
    [left] = await live(database)
    assert left.reservation == held.reservation
    assert [device.agent for device in left.devices] == ["other"]
    assert (await transitions(database))[-1] == ("device_lost", "agent_drained", None)


async def test_a_restart_is_over_when_another_process_is_there(database: Database) -> None:
    await an_agent(database)
    held = await reserve(database, count=1)
    await operate(database, "restart", RestartRequest(all=True, deadline=0))
    [row] = await wanted(database)
    assert row["message"]["restart"] == "b1"
    # At its deadline nothing is taken: its holders go on when it is back.
    await database.call("SELECT look_at_time()")
    assert [state.reservation for state in await live(database)] == [held.reservation]
    await an_agent(database, status=S.OFFLINE, boot_id=None)
    assert len(await wanted(database)) == 1
    await an_agent(database, boot_id="b2")
    assert await wanted(database) == []
    await reserve(database, count=1)


async def test_a_note_stays_with_a_board_that_is_away(database: Database) -> None:
    await an_agent(database)
    await operate(database, "note", NoteRequest(devices=("pi/a",), text="bent pin"))
    [row] = await wanted(database)
    assert (row["device"], row["message"]) == ("a", {"text": "bent pin"})
    inventory = Inventory()
    inventory._online.add("pi")
    reports = Reports(devices={("pi", "a"): None, ("pi", "b"): None})
    await database.transaction(lambda cursor: inventory.write(cursor, reports))
    assert await wanted(database) == []
    await database.call("UPDATE device SET away_since = now() - interval '1 h'")
    await database.call("SELECT look_at_time()")
    await an_agent(database)
    assert [row["message"] for row in await wanted(database)] == [{"text": "bent pin"}]
    await operate(database, "note", NoteRequest(devices=("a",)))
    assert await wanted(database) == []


async def test_what_is_forgotten_is_gone_whether_its_agent_is_there_or_not(
    database: Database,
) -> None:
    await an_agent(database)
    await reserve(database, devices=("a",))
    await operate(database, "note", NoteRequest(devices=("a", "b"), text="x"))
    await operate(database, "forget", ForgetRequest(devices=("a", "b")))
    await operate(database, "restart_devices", RestartDevicesRequest(devices=("b",)))
    commands = await database.call("SELECT device, operation FROM command ORDER BY number")
    assert [(row["device"], row["operation"]) for row in commands] == [
        ("a", "forget"),
        ("b", "forget"),
        ("b", "restart_device"),
    ]
    assert len(await live(database)) == 1
    await an_agent(database, status=S.OFFLINE)
    await operate(database, "forget", ForgetRequest(devices=("a", "b")))
    assert await live(database) == []
    assert await database.call("SELECT FROM device") == []
    assert (await database.call("SELECT operation FROM command WHERE number > 3"))[0] == {
        "operation": "remove"
    }


async def test_an_agent_that_will_not_come_back_is_forgotten(database: Database) -> None:
    code = ErrorCode
    request = ForgetAgentsRequest(agents=("pi",))
    assert await refused(database, "forget_agents", request) is code.NO_SUCH_AGENT
    await an_agent(database)
    assert await refused(database, "forget_agents", request) is code.NOT_AVAILABLE
    await operate(database, "drain", DrainRequest(agents=("pi",)))
    await an_agent(database, status=S.OFFLINE)
    await an_agent(database, "other")
    both = ForgetAgentsRequest(agents=("pi", "other"))
    assert await refused(database, "forget_agents", both) is code.NOT_AVAILABLE
    tried = await operate(
        database, "forget_agents", ForgetAgentsRequest(agents=("pi",), dry_run=True)
    )
    assert [agent.agent for agent in tried.agents or ()] == ["pi"]
    assert len(await database.call("SELECT FROM agent")) == 2
    done = await operate(database, "forget_agents", request)
    assert done == tried
    assert await database.call("SELECT name FROM agent") == [{"name": "other"}]
    assert await database.call("SELECT DISTINCT agent FROM device") == [{"agent": "other"}]
    assert await wanted(database) == []
    commands = await database.call("SELECT agent, device, operation FROM command ORDER BY number")
    assert [tuple(row.values()) for row in commands] == [
        ("pi", "a", "remove"),
        ("pi", "b", "remove"),
        ("pi", "", "remove"),
    ]
    # A leader that has begun meanwhile has read its state before it was removed.
    inventory = Inventory()
    for state in (AgentState(status=S.OFFLINE), None):
        reports = Reports(agents={"pi": state})
        await database.transaction(partial(inventory.write, reports=reports))
    assert await database.call("SELECT FROM agent WHERE name = 'pi'") == []
    assert [(entry.outcome, entry.error) for entry in await entries(database)][:2] == [
        ("pi", None),
        ("pi", None),
    ]


async def test_an_agent_is_not_forgotten_as_long_as_somebody_holds_a_board_of_it(
    database: Database,
) -> None:
    await an_agent(database)
    await reserve(database, devices=("a",))
    await an_agent(database, status=S.OFFLINE)
    request = ForgetAgentsRequest(agents=("pi",))
    assert await refused(database, "forget_agents", request) is ErrorCode.NOT_AVAILABLE
    await operate(database, "end", EndRequest(client="ann"))
    assert (await operate(database, "forget_agents", request)).error is None


async def test_the_record_says_who_asked_for_what_and_is_read_in_pieces(
    database: Database,
) -> None:
    await an_agent(database)
    for text in ("1", "2", "3"):
        await operate(database, "note", NoteRequest(devices=("a",), text=text))
    [latest] = (await operate(database, "audit", AuditRequest(limit=1))).audit or ()
    assert (latest.who, latest.operation, latest.outcome) == ("olga", "note", "pi/a")
    assert latest.about == {"devices": ["a"], "text": "3"}
    earlier = await operate(database, "audit", AuditRequest(before=latest.number))
    assert [entry.about["text"] for entry in earlier.audit or ()] == ["2", "1"]
