"""What is read from the database for the pages and the REST API."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from icefarm_control.web.reading import Reading
from icefarm_control.web.views import (
    Agent,
    Availability,
    Board,
    BoardDetails,
    Boards,
    Count,
    Held,
    Reservation,
    Reservations,
    Step,
    Usage,
    UsageReport,
)
from icefarm_schemas import AuditEntry

PAGE = 50
"""Rows on one page."""
_MOST_USED = 20
_BARS = 48
"""Of usage over time."""

_STATUS = """
    CASE WHEN NOT d.online THEN 'away'
         WHEN d.status <> 'available' THEN d.status
         WHEN d.reservation IS NOT NULL THEN 'starting'
         WHEN d.draining THEN 'draining'
         ELSE d.status END
"""
"""What a board is called by: its agent's word, and what control knows besides."""
_FREE = "d.reservation IS NULL AND d.online AND d.status = 'available' AND NOT d.draining"
_BOARD = f"""
    SELECT d.agent, d.name, d.product, d.detail, d.behaviours, d.labels, d.away_since,
           {_STATUS} AS status,
           d.draining, d.note,
           d.reservation, r.client, a.behaviour, a.arguments, r.expires_at
    FROM device d
    LEFT JOIN reservation r ON r.id = d.reservation
    LEFT JOIN allocation a
           ON a.reservation = d.reservation AND a.agent = d.agent AND a.device = d.name
"""
_RESERVATION = """
    SELECT r.id, r.client, r.session, r.status, r.behaviour, r.wanted_count AS wanted, r.priority,
           r.created_at, r.ended_at, r.end_reason,
           CASE WHEN r.status <> 'queued' THEN r.expires_at END AS expires_at,
           CASE WHEN r.status = 'queued' THEN r.waits_until END AS waits_until,
           CASE WHEN r.status = 'queued' THEN (
               SELECT count(*) FROM reservation q WHERE q.status = 'queued'
                 AND (-q.priority, q.created_at, q.id) <= (-r.priority, r.created_at, r.id)
           ) END AS position,
           coalesce((
               SELECT jsonb_agg(jsonb_build_object(
                   'agent', a.agent, 'name', a.device, 'behaviour', a.behaviour,
                   'status', CASE WHEN d.online THEN d.status WHEN NOT d.online THEN 'away' END
               ) ORDER BY a.agent, a.device)
               FROM allocation a LEFT JOIN device d ON d.agent = a.agent AND d.name = a.device
               WHERE a.reservation = r.id
                 AND (a.ended_at IS NULL OR r.status = 'ended' AND a.ended_at = r.ended_at)
           ), '[]') AS boards
    FROM reservation r
"""


class BoardOrder(StrEnum):
    """By what boards can be sorted."""

    NAME = "name"
    AGENT = "agent"
    STATUS = "status"
    PRODUCT = "product"
    CLIENT = "client"
    EXPIRES = "expires_at"


@dataclass(frozen=True)
class BoardFilter:
    """Which boards are wanted: those that match all that is given. `search` is part of any text."""

    search: str = ""
    status: str = ""
    behaviour: str = ""
    product: str = ""
    agent: str = ""
    client: str = ""
    reservation: str = ""


async def boards(
    reading: Reading,
    wanted: BoardFilter,
    *,
    order: BoardOrder = BoardOrder.NAME,
    descending: bool = False,
    limit: int = PAGE,
    offset: int = 0,
) -> Boards:
    """A page of the boards that match, sorted."""
    direction = "DESC" if descending else "ASC"
    rows = await reading.rows(
        f"""
        WITH board AS ({_BOARD}), matching AS MATERIALIZED (
            SELECT * FROM board
            WHERE (%(status)s = '' OR status = %(status)s)
              AND (%(behaviour)s = '' OR %(behaviour)s = ANY(behaviours))
              AND (%(product)s = '' OR product = %(product)s)
              AND (%(agent)s = '' OR agent = %(agent)s)
              AND (%(client)s = '' OR client = %(client)s)
              AND (%(reservation)s = '' OR reservation = %(reservation)s)
              AND (%(search)s = '' OR strpos(lower(concat_ws(' ',
                  agent, name, product, status, detail, note, client, reservation, behaviour,
                  labels::text
              )), lower(%(search)s)) > 0)
        )
        SELECT (SELECT count(*) FROM matching) AS total, page.*
        FROM (VALUES (1)) AS always LEFT JOIN LATERAL (
            SELECT * FROM matching
            ORDER BY {order.value} {direction} NULLS LAST, agent, name
            LIMIT %(limit)s OFFSET %(offset)s
        ) AS page ON true
        """,
        {**vars(wanted), "limit": limit, "offset": offset},
    )
    return Boards(
        total=rows[0]["total"],
        boards=[Board.model_validate(row) for row in rows if row["name"] is not None],
    )


async def board(reading: Reading, agent: str, name: str) -> BoardDetails | None:
    """One board, without what only its agent knows; none when the farm does not have it."""
    rows = await reading.rows(
        f"{_BOARD} WHERE d.agent = %(agent)s AND d.name = %(name)s", {"agent": agent, "name": name}
    )
    if not rows:
        return None
    found = BoardDetails.model_validate(rows[0])
    return found.model_copy(update={"since": found.away_since})


async def availability(reading: Reading) -> Availability:
    """How many boards are free, by behaviour and by product."""
    rows = await reading.rows(
        f"""
        WITH counted AS (
            SELECT product, behaviours, {_STATUS} AS status,
                   count(*) AS total, count(reservation) AS held,
                   count(*) FILTER (WHERE {_FREE}) AS available
            FROM device d GROUP BY 1, 2, 3
        )
        SELECT 'boards' AS what, 'boards' AS name, coalesce(sum(available), 0)::int AS available,
               coalesce(sum(held), 0)::int AS held, coalesce(sum(total), 0)::int AS total
        FROM counted WHERE status <> 'gone'
        UNION ALL
        SELECT 'product', product, sum(available)::int, sum(held)::int, sum(total)::int
        FROM counted WHERE status <> 'gone' GROUP BY product
        UNION ALL
        SELECT 'behaviour', behaviour, sum(available)::int, sum(held)::int, sum(total)::int
        FROM counted, unnest(behaviours) AS behaviour WHERE status <> 'gone' GROUP BY behaviour
        UNION ALL
        SELECT 'status', status, 0, 0, sum(total)::int FROM counted GROUP BY status
        UNION ALL
        SELECT 'reservation', status, 0, 0, count(*)::int
        FROM reservation WHERE status <> 'ended' GROUP BY status
        ORDER BY 1, 2
        """
    )
    found: dict[str, list[Count]] = {}
    for row in rows:
        found.setdefault(row["what"], []).append(Count.model_validate(row))
    reservations = {count.name: count.total for count in found.get("reservation", ())}
    return Availability(
        boards=found["boards"][0],
        behaviours=found.get("behaviour", []),
        products=found.get("product", []),
        statuses={count.name: count.total for count in found.get("status", ())},
        queued=reservations.get("queued", 0),
        active=reservations.get("active", 0),
    )


async def agents(reading: Reading) -> list[Agent]:
    """All agents, and what the boards of each come to."""
    rows = await reading.rows(
        f"""
        SELECT a.name, a.status, a.asked_at, a.asked_by, a.drains_until,
               a.restarts IS NOT NULL AS restarts, counted.*
        FROM agent a LEFT JOIN LATERAL (
            SELECT count(*)::int AS boards, count(reservation)::int AS held,
                   count(*) FILTER (WHERE d.status = 'broken')::int AS broken,
                   count(*) FILTER (WHERE {_FREE})::int AS available
            FROM device d WHERE d.agent = a.name
        ) AS counted ON true
        ORDER BY a.name
        """
    )
    return [Agent.model_validate(row) for row in rows]


async def reservations(
    reading: Reading,
    *,
    client: str = "",
    status: str = "",
    search: str = "",
    ids: Sequence[str] | None = None,
    limit: int = PAGE,
    offset: int = 0,
) -> Reservations:
    """Reservations: of some ids, of a client, or `active`, `queued` or `ended`.

    Without a status, all that live. The queue is in its order; others are newest first.
    """
    rows = await reading.rows(
        f"""
        WITH matching AS MATERIALIZED (
            SELECT id, status, priority, created_at FROM reservation r
            WHERE CASE WHEN %(status)s = '' THEN status <> 'ended' ELSE status = %(status)s END
              AND (%(client)s = '' OR client = %(client)s)
              AND (%(ids)s::text[] IS NULL OR id = ANY(%(ids)s))
              AND (%(search)s = '' OR strpos(lower(concat_ws(' ', id, client, session, behaviour)),
                                             lower(%(search)s)) > 0)
        ), page AS (
            SELECT id, row_number() OVER (
                ORDER BY status, CASE status WHEN 'queued' THEN -priority END,
                         CASE status WHEN 'queued' THEN created_at END, created_at DESC, id
            ) AS place FROM matching ORDER BY place LIMIT %(limit)s OFFSET %(offset)s
        )
        SELECT (SELECT count(*) FROM matching) AS total, shown.*
        FROM (VALUES (1)) AS always LEFT JOIN (
            SELECT page.place, r.* FROM page JOIN ({_RESERVATION}) AS r USING (id)
        ) AS shown ON true ORDER BY shown.place
        """,
        {
            "client": client,
            "status": status,
            "search": search,
            "ids": None if ids is None else list(ids),
            "limit": limit,
            "offset": offset,
        },
    )
    return Reservations(
        total=rows[0]["total"],
        reservations=[Reservation.model_validate(row) for row in rows if row["id"] is not None],
    )


async def reservation(reading: Reading, wanted: str) -> Reservation | None:
    """One reservation, however long it is over; none when there never was one."""
    rows = await reading.rows(f"{_RESERVATION} WHERE r.id = %(id)s", {"id": wanted})
    return Reservation.model_validate(rows[0]) if rows else None


async def steps(
    reading: Reading,
    *,
    client: str = "",
    board: str = "",
    agent: str = "",
    reservation: str = "",
    what: str = "",
    before: int | None = None,
    limit: int = PAGE,
) -> list[Step]:
    """What happened, newest first; before the step of a number."""
    rows = await reading.rows(
        """
        SELECT number, at, reservation, client, what, why, by, devices AS boards, detail
        FROM transition t
        WHERE (%(client)s = '' OR client = %(client)s)
          AND (%(reservation)s = '' OR reservation = %(reservation)s)
          AND (%(what)s = '' OR what = %(what)s)
          AND (%(board)s = '' OR EXISTS (
              SELECT FROM allocation a
              WHERE a.reservation = t.reservation AND a.device = %(board)s
                AND (%(agent)s = '' OR a.agent = %(agent)s)
                AND t.at >= a.started_at
                AND (a.ended_at IS NULL OR t.at <= a.ended_at + interval '1 s')
          ))
          AND (%(before)s::bigint IS NULL OR number < %(before)s)
        ORDER BY number DESC LIMIT %(limit)s
        """,
        {
            "client": client,
            "board": board,
            "agent": agent,
            "reservation": reservation,
            "what": what,
            "before": before,
            "limit": limit,
        },
    )
    return [Step.model_validate(row) for row in rows]


async def usage(reading: Reading, since: datetime, until: datetime) -> UsageReport:
    """Who held what between two moments, and how many boards were held over the time."""
    between: dict[str, Any] = {"since": since, "until": until, "limit": _MOST_USED, "bars": _BARS}
    overlap = """
        extract(epoch FROM least(coalesce(a.ended_at, now()), {until})
                         - greatest(a.started_at, {since}))::float
    """
    within = overlap.format(since="%(since)s", until="%(until)s")
    used: dict[str, list[Usage]] = {}
    for of, columns in (
        ("clients", "r.client AS name, NULL AS agent"),
        ("boards", "a.device AS name, a.agent"),
    ):
        rows = await reading.rows(
            f"""
            SELECT {columns}, count(DISTINCT a.reservation)::int AS reservations,
                   greatest(sum({within}), 0) AS seconds
            FROM allocation a JOIN reservation r ON r.id = a.reservation
            WHERE (a.ended_at IS NULL OR a.ended_at > %(since)s) AND a.started_at < %(until)s
            GROUP BY 1, 2 ORDER BY seconds DESC, 1 LIMIT %(limit)s
            """,
            between,
        )
        used[of] = [Usage.model_validate(row) for row in rows]
    within_bar = overlap.format(since="bar.begins", until="bar.ends")
    bars = await reading.rows(
        f"""
        WITH bar AS (
            SELECT begins, begins + length AS ends, length
            FROM (SELECT (%(until)s::timestamptz - %(since)s::timestamptz) / %(bars)s AS length) l,
                 LATERAL (SELECT %(since)s::timestamptz + n * length AS begins
                          FROM generate_series(0, %(bars)s - 1) AS n) AS b
        )
        SELECT bar.begins AS at,
               coalesce(sum({within_bar}) FILTER (WHERE a.device IS NOT NULL), 0)
               / extract(epoch FROM min(bar.length))::float AS boards
        FROM bar LEFT JOIN allocation a
          ON a.started_at < bar.ends AND coalesce(a.ended_at, now()) > bar.begins
        GROUP BY bar.begins ORDER BY bar.begins
        """,
        between,
    )
    return UsageReport(
        since=since,
        until=until,
        clients=used["clients"],
        boards=used["boards"],
        over_time=[Held.model_validate(row) for row in bars],
    )


async def audit(
    reading: Reading, *, who: str = "", before: int | None = None, limit: int = PAGE
) -> list[AuditEntry]:
    """What operators asked for, newest first."""
    rows = await reading.rows(
        """
        SELECT number, at, who, operation, about, dry_run, outcome, error FROM audit
        WHERE (%(who)s = '' OR who = %(who)s)
          AND (%(before)s::bigint IS NULL OR number < %(before)s)
        ORDER BY number DESC LIMIT %(limit)s
        """,
        {"who": who, "before": before, "limit": limit},
    )
    return [AuditEntry.model_validate(row) for row in rows]
