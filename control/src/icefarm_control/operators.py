"""What operators ask for: carried out, or refused, and recorded, in one transaction.

Whoever comes over the broker (requests.py) and whoever comes over the web call `carry_out`.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from icefarm_control.clock import database_time
from icefarm_control.database import Cursor, Database, all_rows
from icefarm_control.leadership import CHANNEL, OPERATED
from icefarm_control.metrics import count_operation
from icefarm_control.refusals import RefusedError, check_lease, why_not_live
from icefarm_schemas import (
    AuditEntry,
    AuditRequest,
    DrainRequest,
    EndRequest,
    ErrorCode,
    ExtendLeasesRequest,
    ForgetAgentsRequest,
    ForgetRequest,
    Message,
    NoteRequest,
    ProbeRequest,
    Reply,
    RestartDevicesRequest,
    RestartRequest,
    ResumeRequest,
)

_OfReservations = EndRequest | ExtendLeasesRequest
_OfAgents = DrainRequest | ResumeRequest | RestartRequest
_OfDevices = RestartDevicesRequest | ForgetRequest | NoteRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operator:
    """Who asks, and by which request, so that one that comes twice is carried out once."""

    name: str
    session: str
    correlation: bytes


async def carry_out(database: Database, operation: str, who: Operator, request: Message) -> Reply:
    """Do what an operator asks for, or say why not; both are recorded.

    What is only asked (`audit`, `probe`) is not recorded. A dry run does all of it and takes it
    back, so that its answer is what the answer would be.
    """

    async def work(cursor: Cursor) -> Reply:
        match request:
            case AuditRequest():
                return Reply(audit=await audit(cursor, request), at=await database_time(cursor))
            case ProbeRequest():
                return Reply(reservations=())
        # Before any row is locked: agents are drained, or boards given away, one after the other.
        await all_rows(cursor, "SELECT one_at_a_time()", {})
        before = await _answered(cursor, who)
        if before is not None:
            return before
        reply = await _try(cursor, who, request)
        await _record(cursor, operation, who, request, reply)
        await _remember(cursor, who, reply)
        return reply

    reply = await database.transaction(work)
    count_operation(operation, reply)
    if reply.error is not None:
        log.info("refused %s of the operator %s: %s", operation, who.name, reply.error.message)
    elif not isinstance(request, AuditRequest | ProbeRequest):
        log.info("%s of the operator %s: %s", operation, who.name, _outcome(reply))
    return reply


async def audit(cursor: Cursor, request: AuditRequest) -> tuple[AuditEntry, ...]:
    """What operators asked for, newest first."""
    rows = await all_rows(
        cursor,
        """
        SELECT number, at, who, operation, about, dry_run, outcome, error FROM audit
        WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)
          AND (%(before)s::bigint IS NULL OR number < %(before)s)
        ORDER BY number DESC LIMIT %(limit)s
        """,
        request.model_dump(),
    )
    return tuple(AuditEntry.model_validate(row) for row in rows)


async def _try(cursor: Cursor, who: Operator, request: Message) -> Reply:
    try:
        async with cursor.connection.transaction() as attempt:
            reply = await _do(cursor, who, request)
            await all_rows(cursor, f"SELECT pg_notify('{CHANNEL}', '{OPERATED}')", {})
            if getattr(request, "dry_run", False):
                raise psycopg.Rollback(attempt)
    except RefusedError as refusal:
        return Reply(error=refusal.error)
    return reply


async def _do(cursor: Cursor, who: Operator, request: Message) -> Reply:
    match request:
        case EndRequest() | ExtendLeasesRequest():
            return await _deal_with_reservations(cursor, who, request)
        case DrainRequest() | ResumeRequest() | RestartRequest():
            return await _deal_with_agents(cursor, who, request)
        case ForgetAgentsRequest():
            return await _forget_agents(cursor, who, request)
        case RestartDevicesRequest() | ForgetRequest() | NoteRequest():
            return await _deal_with_devices(cursor, who, request)
    raise AssertionError(f"no rule for {request!r}")


async def _deal_with_reservations(cursor: Cursor, who: Operator, request: _OfReservations) -> Reply:
    check_lease(request)
    await _check_reservations(cursor, request)
    if request.devices is not None:
        await _find_devices(cursor, request.devices, held=True)
    function = "end_chosen" if isinstance(request, EndRequest) else "extend_chosen"
    done = await all_rows(
        cursor,
        f"SELECT id FROM {function}(%(who)s, %(request)s::jsonb) AS id",
        {"who": who.name, "request": request.model_dump_json(exclude_none=True)},
    )
    rows = await all_rows(
        cursor,
        "SELECT state_of(id) AS state FROM unnest(%(ids)s::text[]) AS id",
        {"ids": [row["id"] for row in done]},
    )
    return Reply.model_validate({"reservations": [row["state"] for row in rows]})


async def _check_reservations(cursor: Cursor, request: _OfReservations) -> None:
    """Refuse to deal with some reservations when one of them is not there.

    Raises:
        RefusedError: one is unknown or over; or is queued, so that it has no lease to extend.
    """
    rows = await all_rows(
        cursor,
        "SELECT id, status, end_reason FROM reservation WHERE id = ANY(%(ids)s)",
        {"ids": list(request.reservations or ())},
    )
    found = {row["id"]: row for row in rows}
    for name in request.reservations or ():
        is_lease = isinstance(request, ExtendLeasesRequest)
        refusal = why_not_live(name, found.get(name), is_about_lease=is_lease)
        if refusal is not None:
            raise refusal


async def _deal_with_agents(cursor: Cursor, who: Operator, request: _OfAgents) -> Reply:
    names = await _find_agents(cursor, request)
    if isinstance(request, ResumeRequest):
        await all_rows(
            cursor, "SELECT resume(name) FROM unnest(%(n)s::text[]) AS name", {"n": names}
        )
    else:
        await all_rows(
            cursor,
            """
            SELECT drain(name, %(who)s, make_interval(secs => %(deadline)s), %(restart)s)
            FROM unnest(%(names)s::text[]) AS name
            """,
            {
                "names": names,
                "who": who.name,
                "deadline": request.deadline,
                "restart": isinstance(request, RestartRequest),
            },
        )
    return Reply.model_validate({"agents": await _concerned_agents(cursor, names)})


async def _concerned_agents(cursor: Cursor, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = await all_rows(
        cursor,
        "SELECT concerned_agent(a) AS agent FROM agent a WHERE name = ANY(%(n)s) ORDER BY name",
        {"n": list(names)},
    )
    return [row["agent"] for row in rows]


async def _forget_agents(cursor: Cursor, who: Operator, request: ForgetAgentsRequest) -> Reply:
    # Locked, so that none comes back meanwhile.
    rows = await all_rows(
        cursor,
        """
        SELECT name, status, EXISTS (
            SELECT FROM device d WHERE d.agent = a.name AND d.reservation IS NOT NULL
        ) AS is_held
        FROM agent a WHERE name = ANY(%(names)s) ORDER BY name FOR UPDATE
        """,
        {"names": list(request.agents)},
    )
    found = {row["name"]: row for row in rows}
    for name in request.agents:
        if name not in found:
            raise _no_such_agent(name)
        if found[name]["status"] != "offline":
            why = "is there; stop it first"
        elif found[name]["is_held"]:
            why = "has boards that somebody holds; end their reservations first"
        else:
            continue
        raise RefusedError(ErrorCode.NOT_AVAILABLE, f"the agent {name!r} {why}", agent=name)
    reply = Reply.model_validate({"agents": await _concerned_agents(cursor, request.agents)})
    await all_rows(
        cursor,
        "SELECT forget_agents(%(who)s, %(names)s)",
        {"who": who.name, "names": list(request.agents)},
    )
    return reply


def _no_such_agent(name: str) -> RefusedError:
    return RefusedError(
        ErrorCode.NO_SUCH_AGENT,
        f"the farm has no agent {name!r}; `icefarm agents` lists them",
        agent=name,
    )


async def _find_agents(cursor: Cursor, request: _OfAgents) -> list[str]:
    """The agents that a request is about; of `all`, those that can do it.

    Raises:
        RefusedError: one that is named is not known; or is to be restarted, and is not there.
    """
    rows = await all_rows(cursor, "SELECT name, status, drains_until FROM agent ORDER BY name", {})
    found = {row["name"]: row for row in rows}
    if request.all and isinstance(request, ResumeRequest):
        return [name for name, row in found.items() if row["drains_until"] is not None]
    if request.all:
        return [name for name, row in found.items() if row["status"] != "offline"]
    for name in request.agents or ():
        if name not in found:
            raise _no_such_agent(name)
        if isinstance(request, RestartRequest) and found[name]["status"] == "offline":
            raise RefusedError(
                ErrorCode.NOT_AVAILABLE,
                f"the agent {name!r} is not there, so it cannot be restarted from here",
                agent=name,
            )
    return list(request.agents or ())


async def _deal_with_devices(cursor: Cursor, who: Operator, request: _OfDevices) -> Reply:
    rows = await _find_devices(cursor, request.devices)
    named: dict[str, Any] = {
        "agents": [row["agent"] for row in rows],
        "devices": [row["device"] for row in rows],
    }
    match request:
        case NoteRequest(text=text):
            await all_rows(
                cursor,
                """
                UPDATE device d SET note = nullif(%(text)s, '')
                FROM unnest(%(agents)s::text[], %(devices)s::text[]) AS named (agent, name)
                WHERE d.agent = named.agent AND d.name = named.name
                """,
                named | {"text": text},
            )
        case ForgetRequest():
            await all_rows(
                cursor, "SELECT forget(%(who)s, %(agents)s, %(devices)s)", named | {"who": who.name}
            )
        case RestartDevicesRequest():
            for row in rows:
                if not row["online"] or row["status"] == "gone":
                    raise RefusedError(
                        ErrorCode.NOT_AVAILABLE,
                        f"the board {row['device']!r} is away, so it cannot be started anew",
                        device=row["device"],
                    )
            await all_rows(
                cursor,
                """
                INSERT INTO command (at, agent, device, operation)
                SELECT now(), agent, device, 'restart_device'
                FROM unnest(%(agents)s::text[], %(devices)s::text[]) AS named (agent, device)
                """,
                named,
            )
    kept = ("agent", "device", "reservation")
    return Reply.model_validate({"devices": [{key: row[key] for key in kept} for row in rows]})


async def _find_devices(
    cursor: Cursor, names: Sequence[str], *, held: bool = False
) -> list[dict[str, Any]]:
    """The devices that are named.

    Raises:
        RefusedError: one is not known; or is in no reservation, where it should be `held`.
    """
    rows = await all_rows(
        cursor,
        """
        SELECT agent, name AS device, reservation, online, status FROM device
        WHERE is_named(agent, name, %(names)s::jsonb) ORDER BY agent, name
        """,
        {"names": json.dumps(names)},
    )
    for name in names:
        meant = [row for row in rows if name in (row["device"], f"{row['agent']}/{row['device']}")]
        if not meant:
            raise RefusedError(
                ErrorCode.NO_SUCH_DEVICE,
                f"the farm has no board {name!r}; `icefarm boards` lists them",
                device=name,
            )
        if held and all(row["reservation"] is None for row in meant):
            raise RefusedError(
                ErrorCode.NO_SUCH_RESERVATION,
                f"the board {name!r} is in no reservation",
                device=name,
            )
    return rows


def _outcome(reply: Reply) -> str:
    """What came of a request, in words."""
    if reply.error is not None:
        return reply.error.message
    if reply.reservations is not None:
        named = [f"{state.reservation} of {state.client}" for state in reply.reservations]
    elif reply.agents is not None:
        named = [agent.agent for agent in reply.agents]
    else:
        named = [f"{device.agent}/{device.device}" for device in reply.devices or ()]
    return ", ".join(named) or "nothing to do"


async def _record(
    cursor: Cursor, operation: str, who: Operator, request: Message, reply: Reply
) -> None:
    await all_rows(
        cursor,
        """
        INSERT INTO audit (at, who, operation, about, dry_run, outcome, error)
        VALUES (clock_timestamp(), %(who)s, %(operation)s, %(about)s::jsonb, %(dry_run)s,
                %(outcome)s, %(error)s)
        """,
        {
            "who": who.name,
            "operation": operation,
            "about": request.model_dump_json(
                exclude_none=True, exclude_defaults=True, exclude={"dry_run"}
            ),
            "dry_run": getattr(request, "dry_run", False),
            "outcome": _outcome(reply),
            "error": reply.error and reply.error.code,
        },
    )


async def _answered(cursor: Cursor, who: Operator) -> Reply | None:
    rows = await all_rows(
        cursor,
        "SELECT reply FROM answer WHERE client = %(c)s AND session = %(s)s AND correlation = %(k)s",
        {"c": who.name, "s": who.session, "k": who.correlation},
    )
    return Reply.model_validate(rows[0]["reply"]) if rows else None


async def _remember(cursor: Cursor, who: Operator, reply: Reply) -> None:
    await all_rows(
        cursor,
        """
        INSERT INTO answer (client, session, correlation, reply, answered_at)
        VALUES (%(c)s, %(s)s, %(k)s, %(reply)s, now())
        """,
        {
            "c": who.name,
            "s": who.session,
            "k": who.correlation,
            "reply": reply.encode().decode(),
        },
    )
