"""What has happened, read from the transitions, and what it comes to for clients and devices."""

from typing import Any

from icefarm_control.database import Cursor, all_rows
from icefarm_schemas import HistoryRequest, Transition, Usage, UsageRequest, Used

_MOST_USED = 500


async def history(cursor: Cursor, request: HistoryRequest) -> tuple[Transition, ...]:
    """The latest transitions that are asked for, newest first."""
    rows = await all_rows(
        cursor,
        """
        SELECT number, at, reservation, client, session, what, why, by, devices
        FROM transition t
        WHERE (%(client)s::text IS NULL OR client = %(client)s)
          AND (%(reservation)s::text IS NULL OR reservation = %(reservation)s)
          AND (%(device)s::text IS NULL OR EXISTS (
              SELECT FROM allocation a
              WHERE a.reservation = t.reservation AND a.device = %(device)s
          ))
          AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
          AND (%(before)s::bigint IS NULL OR number < %(before)s)
        ORDER BY number DESC
        LIMIT %(limit)s
        """,
        request.model_dump(),
    )
    return tuple(Transition.model_validate(row) for row in rows)


async def usage(cursor: Cursor, request: UsageRequest) -> Usage:
    """How long boards were held, by client and by device."""
    return Usage(
        clients=await _used(cursor, request, "r.client AS name, NULL AS agent"),
        devices=await _used(cursor, request, "a.device AS name, a.agent"),
    )


async def _used(cursor: Cursor, request: UsageRequest, of: str) -> tuple[Used, ...]:
    parameters: dict[str, Any] = request.model_dump() | {"limit": _MOST_USED}
    rows = await all_rows(
        cursor,
        f"""
        SELECT {of}, count(DISTINCT a.reservation) AS reservations,
               sum(extract(epoch FROM
                   least(coalesce(a.ended_at, now()), %(until)s::timestamptz)
                   - greatest(a.started_at, %(since)s::timestamptz)
               ))::float AS seconds
        FROM allocation a JOIN reservation r ON r.id = a.reservation
        WHERE (%(since)s::timestamptz IS NULL OR a.ended_at IS NULL OR a.ended_at > %(since)s)
          AND (%(until)s::timestamptz IS NULL OR a.started_at < %(until)s)
        GROUP BY 1, 2
        ORDER BY seconds DESC
        LIMIT %(limit)s
        """,
        parameters,
    )
    return tuple(Used.model_validate(row) for row in rows)
