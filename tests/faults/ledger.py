"""What is in the database. All SQL of the suite that reads the farm's tables is here."""

from dataclasses import dataclass
from typing import Any

import psycopg

from faults.wire import Served

_TWO_HOLDERS = """
    SELECT agent, device, array_agg(reservation ORDER BY reservation) FROM allocation
    WHERE ended_at IS NULL GROUP BY agent, device HAVING count(*) > 1
"""
_DISAGREEING = """
    SELECT agent, device, d.reservation, a.reservation
    FROM (SELECT agent, name AS device, reservation FROM device) d
    FULL JOIN (SELECT * FROM allocation WHERE ended_at IS NULL) a USING (agent, device)
    WHERE d.reservation IS DISTINCT FROM a.reservation
"""
_OF_NOBODY = """
    SELECT a.reservation, a.agent, a.device, r.status
    FROM allocation a JOIN reservation r ON r.id = a.reservation
    WHERE a.ended_at IS NULL AND r.status <> 'active'
"""
_LIVE_ALLOCATIONS = "SELECT agent, device, reservation FROM allocation WHERE ended_at IS NULL"
_LIVE_RESERVATIONS = "SELECT id, status FROM reservation WHERE status <> 'ended'"
_EVER_ALLOCATED = """
    SELECT reservation, agent, device FROM allocation
    WHERE (reservation, agent, device) IN
        (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]))
"""
# By numbers, not by times: a time is when a transaction began, which may have waited since for the
# one that gave the device back; and clocks may have jumped meanwhile.
_HISTORY = """
    SELECT agent, device, reservation, what
    FROM transition, unnest(agents, devices) AS concerned (agent, device)
    WHERE what IN ('active', 'returned', 'device_lost', 'ended')
    ORDER BY number
"""
_DEVICES = "SELECT agent, name, status, online, reservation FROM device ORDER BY agent, name"


@dataclass(frozen=True)
class Truth:
    """What is live: reservations by device, statuses by reservation."""

    allocations: dict[tuple[str, str], str]
    reservations: dict[str, str]


class Ledger:
    """Questions to the database; each may raise psycopg.OperationalError while it is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()

    def _rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
        return self._connection.execute(query.encode(), parameters).fetchall()

    def double_holders(self) -> list[str]:
        """Devices that have two holders now."""
        return [
            f"{agent}/{device} is held by {' and '.join(holders)}"
            for agent, device, holders in self._rows(_TWO_HOLDERS)
        ]

    def contradictions(self) -> list[str]:
        """Where the tables disagree about who has a device."""
        return [
            f"{agent}/{device}: the device says {own}, the allocation {allocated}"
            for agent, device, own, allocated in self._rows(_DISAGREEING)
        ] + [
            f"{agent}/{device} is allocated to {reservation}, which is {status}"
            for reservation, agent, device, status in self._rows(_OF_NOBODY)
        ]

    def never_allocated(self, served: set[Served]) -> set[Served]:
        """Of these, those that the database has never decided."""
        if not served:
            return set()
        columns = tuple(list(column) for column in zip(*served, strict=True))
        rows = self._rows(_EVER_ALLOCATED, columns)
        return served - {(reservation, agent, device) for reservation, agent, device in rows}

    def truth(self) -> Truth:
        """What is live now."""
        return Truth(
            {(agent, device): held for agent, device, held in self._rows(_LIVE_ALLOCATIONS)},
            dict(self._rows(_LIVE_RESERVATIONS)),
        )

    def devices(self) -> list[tuple[str, str, str, bool, str | None]]:
        """Agent, name, status, whether its agent is online, reservation."""
        return [(row[0], row[1], row[2], row[3], row[4]) for row in self._rows(_DEVICES)]

    def count_allocations(self) -> int:
        """How many there have ever been."""
        return int(self._rows("SELECT count(*) FROM allocation")[0][0])

    def overlaps(self) -> list[str]:
        """Devices that somebody took before another one gave them back, over the whole history."""
        holders: dict[tuple[str, str], str] = {}
        faults = []
        for agent, device, reservation, what in self._rows(_HISTORY):
            holder = holders.get((agent, device))
            if what == "active":
                if holder is not None:
                    faults.append(
                        f"{agent}/{device}: {reservation} had it before {holder} gave it back"
                    )
                holders[agent, device] = reservation
            elif holder == reservation:
                del holders[agent, device]
        return faults
