"""A past for a farm: reservations that have ended, as control would have written them."""

import random
from datetime import timedelta

import psycopg

from icefarm_schemas import utc_now

_CLIENTS = {"ann": 9, "ben": 6, "chen": 4, "dora": 3, "nightly-ci": 8, "evolution": 5}
"""Who, and how often beside the others."""
_REASONS = {"released": 16, "expired": 3, "session_gone": 2, "operator": 1}
_BEHAVIOURS = ("pulsecount", "pulsecount", "variance", "serial", "usbip")
_ROUND = timedelta(hours=6)


def write_past(database_url: str, boards: dict[str, list[str]], days: int = 8) -> int:
    """Let the boards of agents, by name, have been used for some days; return how many times.

    It is the same each time, but for when it ended.
    """
    chance = random.Random(1)
    everything = [(agent, board) for agent, names in boards.items() for board in names]
    begin = utc_now() - timedelta(days=days)
    count = 0
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        for number in range(int(timedelta(days=days) / _ROUND)):
            free = chance.sample(everything, len(everything))
            while len(free) > 2 and chance.random() < 0.75:
                taken = [free.pop() for _ in range(chance.choice((1, 1, 2, 3)))]
                # In its own part of the time, so that no board is held twice at once.
                at = begin + number * _ROUND + chance.random() * _ROUND / 4
                ended = at + chance.betavariate(2, 3) * _ROUND * 0.7
                who = chance.choices(list(_CLIENTS), list(_CLIENTS.values()))[0]
                why = chance.choices(list(_REASONS), list(_REASONS.values()))[0]
                row = {
                    "id": f"past{count:04}",
                    "client": who,
                    "behaviour": chance.choice(_BEHAVIOURS),
                    "count": len(taken),
                    "at": at,
                    "ended": ended,
                    "why": why,
                    "by": {"released": who, "operator": "olga"}.get(why),
                    "agents": [agent for agent, _ in taken],
                    "boards": [board for _, board in taken],
                }
                _write(cursor, row)
                count += 1
    return count


def _write(cursor: psycopg.Cursor, row: dict[str, object]) -> None:
    cursor.execute(
        """
        INSERT INTO reservation (
            id, client, session, behaviour, arguments, on_session_end, wanted_count, duration,
            priority, status, created_at, granted_at, expires_at, ended_at, end_reason
        ) VALUES (
            %(id)s, %(client)s, 'past', %(behaviour)s, '{}', 'release', %(count)s, '1 h', 0,
            'ended', %(at)s, %(at)s, %(ended)s, %(ended)s, %(why)s
        )
        """,
        row,
    )
    cursor.execute(
        """
        INSERT INTO allocation (
            reservation, agent, device, behaviour, arguments, started_at, ended_at
        )
        SELECT %(id)s, agent, device, %(behaviour)s, '{}', %(at)s, %(ended)s
        FROM unnest(%(agents)s::text[], %(boards)s::text[]) AS taken(agent, device)
        """,
        row,
    )
    cursor.execute(
        """
        INSERT INTO transition (
            at, reservation, client, session, what, why, by, agents, devices, told
        ) VALUES
            (%(at)s, %(id)s, %(client)s, 'past', 'active', NULL, %(client)s, %(agents)s,
             %(boards)s, true),
            (%(ended)s, %(id)s, %(client)s, 'past', 'ended', %(why)s, %(by)s, %(agents)s,
             %(boards)s, true)
        """,
        row,
    )
