"""Which devices a reservation gets, decided by Postgres in one statement.

All that are wanted or none. Those that are further ahead in the queue come first: a device that
one of them could use is not given to anybody behind it. So a later request overtakes only with
devices that are of no use to an earlier one, cannot delay it, and nobody starves.
"""

from icefarm_control.database import Cursor, all_rows
from icefarm_control.refusal import RefusedError
from icefarm_schemas import ErrorCode, ReserveRequest

_ALLOCATE = """
    WITH wanted AS (
        SELECT * FROM reservation WHERE id = %(id)s AND status = 'queued'
    ), free AS (
        SELECT d.agent, d.name
        FROM device d, wanted w
        WHERE d.reservation IS NULL AND d.online AND d.status = 'available'
          AND w.behaviour = ANY(d.behaviours)
          AND (w.wanted_devices IS NULL OR d.name = ANY(w.wanted_devices))
          -- Of boards of one name, as after a move from one agent to another, only one counts.
          AND (w.wanted_devices IS NULL OR NOT EXISTS (
              SELECT FROM device e
              WHERE e.name = d.name AND e.agent < d.agent
                AND e.reservation IS NULL AND e.online AND e.status = 'available'
          ))
          AND NOT EXISTS (
              SELECT FROM reservation q
              WHERE q.status = 'queued'
                AND (-q.priority, q.created_at, q.id) < (-w.priority, w.created_at, w.id)
                AND q.behaviour = ANY(d.behaviours)
                AND (q.wanted_devices IS NULL OR d.name = ANY(q.wanted_devices))
          )
        ORDER BY d.agent, d.name
        LIMIT (SELECT wanted_count FROM wanted)
        -- The locked row says itself that it is free, so no two can get it.
        FOR UPDATE OF d SKIP LOCKED
    ), served AS (
        UPDATE reservation r SET status = 'active', expires_at = now() + r.duration
        FROM wanted w
        WHERE r.id = w.id AND (SELECT count(*) FROM free) = w.wanted_count
        RETURNING r.id
    ), allocated AS (
        INSERT INTO allocation (reservation, agent, device, started_at)
        SELECT served.id, free.agent, free.name, now() FROM served, free
    ), taken AS (
        UPDATE device SET reservation = served.id FROM served, free
        WHERE device.agent = free.agent AND device.name = free.name
    )
    SELECT id FROM served
"""


async def allocate(cursor: Cursor, reservation: str) -> bool:
    """Give a queued reservation its devices and begin its lease, if it is its turn."""
    return bool(await all_rows(cursor, _ALLOCATE, {"id": reservation}))


async def why_not(cursor: Cursor, request: ReserveRequest) -> RefusedError:
    """Why a request cannot be served now, in words."""
    if request.devices is not None:
        return await _why_not_these(cursor, request.devices, request.behaviour)
    [row] = await all_rows(
        cursor,
        """
        SELECT count(*) FILTER (WHERE offers) AS total,
               count(*) FILTER (WHERE offers AND free) AS free,
               array(SELECT DISTINCT unnest(behaviours) FROM device ORDER BY 1) AS known,
               (SELECT count(*) FROM reservation WHERE status = 'queued') - 1 AS others
        FROM (
            SELECT %(behaviour)s = ANY(behaviours) AS offers,
                   reservation IS NULL AND online AND status = 'available' AS free
            FROM device
        ) AS d
        """,
        {"behaviour": request.behaviour},
    )
    total, free, known, others = row["total"], row["free"], row["known"], row["others"]
    if total == 0:
        return RefusedError(
            ErrorCode.NO_SUCH_BEHAVIOUR,
            f"no board offers {request.behaviour!r}; the farm's boards offer: "
            + (", ".join(known) or "nothing, since there are none"),
            known=known,
        )
    ahead = f", and {others} reservations are in the queue" if others else ""
    return RefusedError(
        ErrorCode.NOT_AVAILABLE,
        f"not enough boards with {request.behaviour!r}: {request.count} asked for, "
        f"{free} of {total} free{ahead}",
        # One that the farm could never serve would keep everybody behind it waiting.
        may_pass=(request.count or 0) <= total,
        asked=request.count,
        free=free,
        total=total,
        queued=others,
    )


async def _why_not_these(cursor: Cursor, names: tuple[str, ...], behaviour: str) -> RefusedError:
    rows = await all_rows(
        cursor,
        "SELECT * FROM device WHERE name = ANY(%(names)s) ORDER BY online, agent, name",
        {"names": list(names)},
    )
    # A board that was moved may still be known at an agent that is away; the online one counts.
    found = {row["name"]: row for row in rows}
    reasons = []
    for name in names:
        row = found.get(name)
        if row is None:
            return RefusedError(
                ErrorCode.NO_SUCH_DEVICE,
                f"the farm has no board {name!r}; `icefarm boards` lists them",
                device=name,
            )
        if behaviour not in row["behaviours"]:
            return RefusedError(
                ErrorCode.NO_SUCH_BEHAVIOUR,
                f"the board {name!r} does not offer {behaviour!r} but "
                + ", ".join(row["behaviours"]),
                device=name,
                known=row["behaviours"],
            )
        if not row["online"]:
            reasons.append(f"the board {name!r} is away with its agent")
        elif row["reservation"] is not None:
            reasons.append(f"the board {name!r} is held by another reservation")
        elif row["status"] != "available":
            reasons.append(f"the board {name!r} is {row['status']}")
    return RefusedError(
        ErrorCode.NOT_AVAILABLE,
        "; ".join(reasons) or "others are ahead in the queue for these boards",
        may_pass=True,
        devices=list(names),
    )
