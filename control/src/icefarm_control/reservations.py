"""Reservations in SQL: made, extended and ended, each in the transaction that its caller opened.

Postgres is also the clock: every time here is its `now()`.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from icefarm_control.allocation import allocate, why_not
from icefarm_control.database import Cursor, all_rows
from icefarm_control.refusal import RefusedError
from icefarm_schemas import (
    EndReason,
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
    ) AS devices,
    CASE WHEN r.status = 'queued' THEN (
        SELECT count(*) FROM reservation q
        WHERE q.status = 'queued'
          AND (-q.priority, q.created_at, q.id) <= (-r.priority, r.created_at, r.id)
    ) END AS position
    FROM reservation r
"""


def _held(row: dict[str, Any]) -> Held:
    state = ReservationState(
        reservation=row["id"],
        status=ReservationStatus(row["status"]),
        client=row["client"],
        session=row["session"],
        behaviour=row["behaviour"],
        devices=row["devices"] or (),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        position=row["position"],
        waits_until=row["waits_until"] if row["status"] == "queued" else None,
        reason=row["end_reason"],
    )
    return Held(state, row["arguments"])


async def live_reservations(cursor: Cursor) -> list[Held]:
    """All reservations that are not over, the queue in its order."""
    query = _STATES + "WHERE status <> 'ended' ORDER BY position"
    return [_held(row) for row in await all_rows(cursor, query, {})]


async def _state(cursor: Cursor, reservation: str) -> Held:
    [row] = await all_rows(cursor, _STATES + "WHERE id = %(id)s", {"id": reservation})
    return _held(row)


async def reserve(cursor: Cursor, client: str, session: str, request: ReserveRequest) -> Held:
    """Take devices, all that are asked for or none; or queue for them, if the request waits.

    Raises:
        RefusedError: they are unknown, held, not usable, or the lease is too long.
    """
    # Short enough to be typed, and not to be guessed within a lease.
    reservation = secrets.token_hex(5)
    await cursor.execute(
        """
        INSERT INTO reservation (id, client, session, behaviour, arguments, on_session_end,
                                 wanted_count, wanted_devices, duration, priority, status,
                                 created_at, waits_until)
        VALUES (%(id)s, %(client)s, %(session)s, %(behaviour)s, %(arguments)s, %(on_session_end)s,
                %(count)s, %(devices)s, %(duration)s, %(priority)s, 'queued',
                now(), now() + %(wait)s)
        """,
        {
            "id": reservation,
            "client": client,
            "session": session,
            "behaviour": request.behaviour,
            "arguments": json.dumps(request.arguments),
            "on_session_end": request.on_session_end,
            "count": request.count or len(request.devices or ()),
            "devices": None if request.devices is None else list(request.devices),
            "duration": _lease(request.duration),
            "priority": request.priority,
            "wait": None if request.wait is None else timedelta(seconds=request.wait),
        },
    )
    if not await allocate(cursor, reservation):
        refusal = await why_not(cursor, request)
        if request.wait is None or not refusal.may_pass:
            await cursor.execute("DELETE FROM reservation WHERE id = %(id)s", {"id": reservation})
            raise refusal
    return await _state(cursor, reservation)


async def serve_queue(cursor: Cursor) -> list[Held]:
    """Give devices to those in the queue whose turn it is, and return these."""
    rows = await all_rows(
        cursor,
        "SELECT id FROM reservation WHERE status = 'queued' "
        "ORDER BY priority DESC, created_at, id FOR UPDATE",
        {},
    )
    return [await _state(cursor, row["id"]) for row in rows if await allocate(cursor, row["id"])]


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
    extended = await all_rows(
        cursor,
        "UPDATE reservation SET expires_at = now() + %(duration)s "
        "WHERE id = %(id)s AND status = 'active' RETURNING id",
        {"id": request.reservation, "duration": duration},
    )
    if not extended:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"the reservation {request.reservation!r} is still queued; its lease begins when "
            f"there are devices for it",
        )
    return await _state(cursor, request.reservation)


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
    if rows[0]["status"] == "ended":
        reason = rows[0]["end_reason"]
        raise RefusedError(
            ErrorCode.RESERVATION_ENDED,
            f"the reservation {reservation!r} is over: {reason.replace('_', ' ')}",
            reason=reason,
        )


async def end_expired(cursor: Cursor) -> list[Held]:
    """End every reservation whose lease is over, or that has waited for as long as it would."""
    rows = await all_rows(
        cursor,
        """
        SELECT id, status FROM reservation
        WHERE status = 'active' AND expires_at <= now()
           OR status = 'queued' AND waits_until <= now()
        FOR UPDATE
        """,
        {},
    )
    over = [row["id"] for row in rows if row["status"] == "active"]
    not_served = [row["id"] for row in rows if row["status"] == "queued"]
    return [
        *await _end(cursor, over, EndReason.EXPIRED),
        *await _end(cursor, not_served, EndReason.NOT_SERVED),
    ]


async def end_session(cursor: Cursor, client: str, session: str) -> list[Held]:
    """End what a session reserved for as long as it lives."""
    rows = await all_rows(
        cursor,
        """
        SELECT id FROM reservation
        WHERE status <> 'ended' AND client = %(client)s AND session = %(session)s
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
        WHERE status <> 'ended' AND on_session_end = %(release)s
        """,
        {"release": OnSessionEnd.RELEASE},
    )
    return {(row["client"], row["session"]) for row in rows}


async def seconds_to_next_expiry(cursor: Cursor) -> float | None:
    """How long until a lease or a wait is over, if there is one."""
    rows = await all_rows(
        cursor,
        """
        SELECT extract(epoch FROM least(
            (SELECT min(expires_at) FROM reservation WHERE status = 'active'),
            (SELECT min(waits_until) FROM reservation WHERE status = 'queued')
        ) - now())::float AS seconds
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
