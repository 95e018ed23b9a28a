"""Reservations in SQL: made, extended and ended, each in the transaction that its caller opened.

Postgres is also the clock: every time here is its `now()`.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from icefarm_control.database import Cursor, all_rows
from icefarm_schemas import (
    EndReason,
    Error,
    ErrorCode,
    ExtendRequest,
    OnSessionEnd,
    ReleaseRequest,
    ReservationState,
    ReservationStatus,
    ReserveRequest,
)

MAX_LEASE = timedelta(days=1)
"""How far in the future a lease may end; longer work extends it on the way."""


class RefusedError(Exception):
    """A request that cannot be granted."""

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, details=details)


@dataclass(frozen=True)
class Held:
    """A reservation as the database has it: its public state, and the arguments of its boards."""

    state: ReservationState
    arguments: dict[str, Any]


_STATES = """
    SELECT r.*, (
        SELECT jsonb_agg(jsonb_build_object('agent', a.agent, 'device', a.device)
                         ORDER BY a.agent, a.device)
        FROM allocation a WHERE a.reservation = r.id
    ) AS devices
    FROM reservation r
"""


def _held(row: dict[str, Any]) -> Held:
    state = ReservationState(
        reservation=row["id"],
        status=ReservationStatus(row["status"]),
        client=row["client"],
        session=row["session"],
        behaviour=row["behaviour"],
        devices=row["devices"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        reason=row["end_reason"],
    )
    return Held(state, row["arguments"])


async def live_reservations(cursor: Cursor) -> list[Held]:
    """All reservations that are not over."""
    return [_held(row) for row in await all_rows(cursor, _STATES + "WHERE status = 'active'", {})]


async def reserve(cursor: Cursor, client: str, session: str, request: ReserveRequest) -> Held:
    """Take devices, all that are asked for or none.

    Raises:
        RefusedError: they are unknown, held, not usable, or the lease is too long.
    """
    duration = _lease(request.duration)
    if request.devices is not None:
        chosen = await _exact_devices(cursor, request.devices, request.behaviour)
    else:
        chosen = await _any_devices(cursor, request.count or 1, request.behaviour)
    rows = await all_rows(
        cursor,
        """
        WITH made AS (
            INSERT INTO reservation (id, client, session, behaviour, arguments, on_session_end,
                                     status, created_at, expires_at)
            VALUES (%(id)s, %(client)s, %(session)s, %(behaviour)s, %(arguments)s,
                    %(on_session_end)s, 'active', now(), now() + %(duration)s)
            RETURNING *
        ), chosen AS (
            SELECT * FROM unnest(%(agents)s::text[], %(devices)s::text[]) AS c (agent, device)
        ), allocated AS (
            INSERT INTO allocation (reservation, agent, device, started_at)
            SELECT made.id, chosen.agent, chosen.device, now() FROM made, chosen
        ), taken AS (
            UPDATE device SET reservation = made.id FROM made, chosen
            WHERE device.agent = chosen.agent AND device.name = chosen.device
        )
        SELECT made.*, (
            SELECT jsonb_agg(jsonb_build_object('agent', agent, 'device', device)) FROM chosen
        ) AS devices
        FROM made
        """,
        {
            # Short enough to be typed, and not to be guessed within a lease.
            "id": secrets.token_hex(5),
            "client": client,
            "session": session,
            "behaviour": request.behaviour,
            "arguments": json.dumps(request.arguments),
            "on_session_end": request.on_session_end,
            "duration": duration,
            "agents": [agent for agent, _ in chosen],
            "devices": [device for _, device in chosen],
        },
    )
    return _held(rows[0])


async def _any_devices(cursor: Cursor, count: int, behaviour: str) -> list[tuple[str, str]]:
    rows = await all_rows(
        cursor,
        """
        SELECT agent, name FROM device
        WHERE reservation IS NULL AND online AND status = 'available'
          AND behaviours @> ARRAY[%(behaviour)s]
        ORDER BY agent, name LIMIT %(count)s
        FOR UPDATE SKIP LOCKED
        """,
        {"behaviour": behaviour, "count": count},
    )
    if len(rows) < count:
        offering = await all_rows(
            cursor,
            """
            SELECT count(*) FILTER (WHERE behaviours @> ARRAY[%(behaviour)s]) AS offering,
                   array(SELECT DISTINCT unnest(behaviours) FROM device ORDER BY 1) AS known
            FROM device
            """,
            {"behaviour": behaviour},
        )
        total, known = offering[0]["offering"], offering[0]["known"]
        if total == 0:
            raise RefusedError(
                ErrorCode.NO_SUCH_BEHAVIOUR,
                f"no board offers {behaviour!r}; the farm's boards offer: "
                + (", ".join(known) or "nothing, since there are none"),
                known=known,
            )
        raise RefusedError(
            ErrorCode.NOT_AVAILABLE,
            f"not enough boards with {behaviour!r}: {count} asked for, {len(rows)} of {total} free",
            asked=count,
            free=len(rows),
            total=total,
        )
    return [(row["agent"], row["name"]) for row in rows]


async def _exact_devices(
    cursor: Cursor, names: Sequence[str], behaviour: str
) -> list[tuple[str, str]]:
    rows = await all_rows(
        cursor,
        "SELECT * FROM device WHERE name = ANY(%(names)s) ORDER BY online, agent, name FOR UPDATE",
        {"names": list(names)},
    )
    # A board that was moved may still be known at an agent that is away; the online one counts.
    found = {row["name"]: row for row in rows}
    for name in names:
        row = found.get(name)
        if row is None:
            raise RefusedError(
                ErrorCode.NO_SUCH_DEVICE,
                f"the farm has no board {name!r}; `icefarm boards` lists them",
                device=name,
            )
        if behaviour not in row["behaviours"]:
            raise RefusedError(
                ErrorCode.NO_SUCH_BEHAVIOUR,
                f"the board {name!r} does not offer {behaviour!r} but "
                + ", ".join(row["behaviours"]),
                device=name,
                known=row["behaviours"],
            )
        if row["reservation"] is not None or not row["online"] or row["status"] != "available":
            why = "held by another reservation" if row["reservation"] else row["status"]
            if not row["online"]:
                why = "away with its agent"
            raise RefusedError(ErrorCode.NOT_AVAILABLE, f"the board {name!r} is {why}", device=name)
    return sorted((found[name]["agent"], name) for name in names)


def _lease(seconds: float) -> timedelta:
    if seconds > MAX_LEASE.total_seconds():
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED,
            f"a lease of {seconds:g} s was asked for; {MAX_LEASE.total_seconds():g} s are allowed "
            f"at a time, and a lease can be extended while it lasts",
            longest=MAX_LEASE.total_seconds(),
        )
    return timedelta(seconds=seconds)


async def extend(cursor: Cursor, client: str, request: ExtendRequest) -> Held:
    """Let a lease end `duration` from now.

    Raises:
        RefusedError: it is over, not the client's, or the lease would be too long.
    """
    duration = _lease(request.duration)
    await _check_holder(cursor, client, request.reservation)
    await cursor.execute(
        "UPDATE reservation SET expires_at = now() + %(duration)s WHERE id = %(id)s",
        {"id": request.reservation, "duration": duration},
    )
    rows = await all_rows(cursor, _STATES + "WHERE id = %(id)s", {"id": request.reservation})
    return _held(rows[0])


async def release(cursor: Cursor, client: str, request: ReleaseRequest) -> Held:
    """Give back a reservation's devices.

    Raises:
        RefusedError: it is over already, or not the client's.
    """
    await _check_holder(cursor, client, request.reservation)
    [ended] = await _end(cursor, [request.reservation], EndReason.RELEASED)
    return ended


async def _check_holder(cursor: Cursor, client: str, reservation: str) -> None:
    rows = await all_rows(
        cursor,
        "SELECT client, status, end_reason FROM reservation WHERE id = %(id)s FOR UPDATE",
        {"id": reservation},
    )
    if not rows:
        raise RefusedError(
            ErrorCode.NO_SUCH_RESERVATION, f"there is no reservation {reservation!r}"
        )
    if rows[0]["client"] != client:
        raise RefusedError(
            ErrorCode.NOT_HOLDER,
            f"the reservation {reservation!r} is held by somebody else, not by {client!r}",
        )
    if rows[0]["status"] != "active":
        reason = rows[0]["end_reason"]
        raise RefusedError(
            ErrorCode.RESERVATION_ENDED,
            f"the reservation {reservation!r} is over: {reason.replace('_', ' ')}",
            reason=reason,
        )


async def end_expired(cursor: Cursor) -> list[Held]:
    """End every reservation whose lease is over."""
    rows = await all_rows(
        cursor,
        "SELECT id FROM reservation WHERE status = 'active' AND expires_at <= now() FOR UPDATE",
        {},
    )
    return await _end(cursor, [row["id"] for row in rows], EndReason.EXPIRED)


async def end_session(cursor: Cursor, client: str, session: str) -> list[Held]:
    """End what a session reserved for as long as it lives."""
    rows = await all_rows(
        cursor,
        """
        SELECT id FROM reservation
        WHERE status = 'active' AND client = %(client)s AND session = %(session)s
          AND on_session_end = %(release)s
        FOR UPDATE
        """,
        {"client": client, "session": session, "release": OnSessionEnd.RELEASE},
    )
    return await _end(cursor, [row["id"] for row in rows], EndReason.SESSION_GONE)


async def sessions_that_matter(cursor: Cursor) -> set[tuple[str, str]]:
    """The sessions, as client and session, whose end would end a reservation."""
    rows = await all_rows(
        cursor,
        """
        SELECT DISTINCT client, session FROM reservation
        WHERE status = 'active' AND on_session_end = %(release)s
        """,
        {"release": OnSessionEnd.RELEASE},
    )
    return {(row["client"], row["session"]) for row in rows}


async def seconds_to_next_expiry(cursor: Cursor) -> float | None:
    """How long until a lease is over, if there is one."""
    rows = await all_rows(
        cursor,
        """
        SELECT extract(epoch FROM min(expires_at) - now())::float AS seconds
        FROM reservation WHERE status = 'active'
        """,
        {},
    )
    seconds: float | None = rows[0]["seconds"]
    return seconds


async def _end(cursor: Cursor, ids: Sequence[str], reason: EndReason) -> list[Held]:
    if not ids:
        return []
    await cursor.execute(
        """
        WITH ended AS (
            UPDATE reservation SET status = 'ended', ended_at = now(), end_reason = %(reason)s
            WHERE id = ANY(%(ids)s)
        ), given_back AS (
            UPDATE allocation SET ended_at = now()
            WHERE reservation = ANY(%(ids)s) AND ended_at IS NULL
        )
        UPDATE device SET reservation = NULL WHERE reservation = ANY(%(ids)s)
        """,
        {"ids": list(ids), "reason": reason},
    )
    # A device that went away while it was held was kept until now.
    await cursor.execute("DELETE FROM device WHERE reservation IS NULL AND status = 'gone'")
    return [
        _held(row)
        for row in await all_rows(cursor, _STATES + "WHERE id = ANY(%(ids)s)", {"ids": list(ids)})
    ]
