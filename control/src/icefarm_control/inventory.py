"""What agents report of themselves and their devices, brought into Postgres in batches.

Only the latest report of each device counts, so however fast reports come, what waits to be
written is bounded by the number of devices.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from icefarm_broker import Connected, Happening, Received, Synced
from icefarm_control.database import Cursor
from icefarm_control.leadership import CHANGED
from icefarm_schemas import AgentState, AgentStatus, DeviceState
from icefarm_schemas.topics import AgentStateTopic, DeviceStateTopic

DeviceKey = tuple[str, str]
"""Agent and device."""

_KEPT = {"product", "behaviours", "labels", "status", "detail"}
"""What the database has of a report."""


@dataclass
class Reports:
    """What has come since the last batch.

    `snapshot` has all devices that are retained at the broker, once these are known.
    """

    devices: dict[DeviceKey, DeviceState | None] = field(default_factory=dict)
    agents: dict[str, AgentState | None] = field(default_factory=dict)
    snapshot: set[DeviceKey] | None = None

    def __bool__(self) -> bool:
        return bool(self.devices or self.agents or self.snapshot is not None)


class Inventory:
    """Collects reports from the connection until they are taken to the database."""

    def __init__(self) -> None:
        self._reports = Reports()
        self._online: set[str] = set()
        self._seen: set[DeviceKey] | None = None

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._reports)

    @property
    def online(self) -> Collection[str]:
        """The agents that are there."""
        return self._online

    def observe(self, happening: Happening) -> None:
        """Take note of a report, and of what a snapshot no longer has."""
        match happening:
            case Connected():
                self._seen = set()
                self._online.clear()
            case Synced() if self._seen is not None:
                self._reports.snapshot, self._seen = self._seen, None
            case Received(AgentStateTopic(agent), message):
                self._reports.agents[agent] = message
                if message is not None and message.status is not AgentStatus.OFFLINE:
                    self._online.add(agent)
                else:
                    self._online.discard(agent)
            case Received(DeviceStateTopic(agent, device), message):
                self._reports.devices[agent, device] = message
                if self._seen is not None and message is not None:
                    self._seen.add((agent, device))

    def take(self) -> Reports:
        """What has come, which is then the caller's to write."""
        reports, self._reports = self._reports, Reports()
        return reports

    async def write(self, cursor: Cursor, reports: Reports, delay: float = 0) -> None:
        """Bring reports into the database; harmless to repeat.

        `delay` is how many seconds from now an absence begins to count.
        """
        if reports.agents or reports.snapshot is not None:
            await self._write_agents(cursor, reports.agents)
        here = {key: state for key, state in reports.devices.items() if state is not None}
        gone = reports.devices.keys() - here.keys()
        if here:
            await self._write_devices(cursor, here, delay)
        if gone:
            await self._write_gone(cursor, gone, delay)
            await cursor.execute(
                """
                DELETE FROM device d
                USING unnest(%(agents)s::text[], %(names)s::text[]) AS gone (agent, name)
                WHERE d.agent = gone.agent AND d.name = gone.name AND d.reservation IS NULL
                  AND d.note IS NULL
                """,
                _columns(gone),
            )
        if reports.snapshot is not None:
            # What the broker does not retain went away while control was not there; or the broker
            # has lost its memory, so these are forgotten only when they do not come back.
            await cursor.execute("SELECT agent, name FROM device WHERE status <> 'gone'")
            known = {(row["agent"], row["name"]) for row in await cursor.fetchall()}
            await self._write_gone(cursor, known - reports.snapshot - here.keys(), delay)
        if reports.agents or reports.snapshot is not None:
            await cursor.execute(
                """
                UPDATE device
                SET online = agent = ANY(%(online)s),
                    away_since = CASE WHEN agent = ANY(%(online)s) AND status <> 'gone' THEN NULL
                                 ELSE coalesce(away_since, now() + make_interval(secs => %(delay)s))
                                 END
                WHERE online <> (agent = ANY(%(online)s))
                """,
                {"online": list(self._online), "delay": delay},
            )
            await cursor.execute(
                """
                UPDATE device d SET draining = drains(a)
                FROM agent a WHERE a.name = d.agent AND d.draining <> drains(a)
                """
            )
        await cursor.execute(f"NOTIFY {CHANGED}")

    async def _write_agents(self, cursor: Cursor, agents: dict[str, AgentState | None]) -> None:
        rows = [
            {"name": name, "status": state.status, "boot_id": state.boot_id}
            for name, state in agents.items()
            if state is not None
        ]
        await cursor.execute(
            """
            INSERT INTO agent (name, status, boot_id)
            SELECT name, status, boot_id
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS it (name text, status text, boot_id text)
            ORDER BY name
            ON CONFLICT (name) DO UPDATE
            SET status = excluded.status, boot_id = coalesce(excluded.boot_id, agent.boot_id)
            """,
            {"rows": json.dumps(rows)},
        )
        # It was forgotten by an operator, and may have been read before it was removed there.
        await cursor.execute(
            """
            DELETE FROM agent
            WHERE name = ANY(%(removed)s)
              AND NOT EXISTS (SELECT FROM device d WHERE d.agent = agent.name)
            """,
            {"removed": [name for name, state in agents.items() if state is None]},
        )
        # Also those of which the broker knows nothing any more.
        await cursor.execute(
            "UPDATE agent SET status = 'offline' WHERE status <> 'offline' "
            "AND name <> ALL(%(online)s)",
            {"online": list(self._online)},
        )
        # Another process has taken the place of the one that was to end.
        await cursor.execute("SELECT resume(name) FROM agent WHERE restarts <> boot_id")

    async def _write_devices(
        self, cursor: Cursor, here: dict[DeviceKey, DeviceState], delay: float
    ) -> None:
        rows = [
            state.model_dump(include=_KEPT)
            | {"agent": agent, "name": name, "online": agent in self._online}
            for (agent, name), state in here.items()
        ]
        await cursor.execute(
            """
            INSERT INTO device
                (agent, name, product, behaviours, labels, status, detail, online, draining,
                 away_since)
            SELECT agent, name, product, behaviours, labels, status, detail, online,
                   EXISTS (SELECT FROM agent a WHERE a.name = reported.agent AND drains(a)),
                   CASE WHEN NOT online THEN now() + make_interval(secs => %(delay)s) END
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS reported
                (agent text, name text, product text, behaviours text[], labels jsonb, status text,
                 detail text, online boolean)
            ORDER BY agent, name
            ON CONFLICT (agent, name) DO UPDATE
            SET product = excluded.product, behaviours = excluded.behaviours,
                labels = excluded.labels, status = excluded.status, detail = excluded.detail,
                online = excluded.online,
                away_since = CASE WHEN NOT excluded.online
                             THEN coalesce(device.away_since, excluded.away_since) END
            """,
            {"rows": json.dumps(rows), "delay": delay},
        )

    @staticmethod
    async def _write_gone(cursor: Cursor, gone: set[DeviceKey], delay: float) -> None:
        """They are gone, but not forgotten: a held one is its holder's for his grace."""
        await cursor.execute(
            """
            UPDATE device
            SET status = 'gone',
                away_since = coalesce(away_since, now() + make_interval(secs => %(delay)s))
            FROM unnest(%(agents)s::text[], %(names)s::text[]) AS gone (agent, name)
            WHERE device.agent = gone.agent AND device.name = gone.name
            """,
            _columns(gone) | {"delay": delay},
        )


def _columns(devices: set[DeviceKey]) -> dict[str, Any]:
    agents, names = [agent for agent, _ in devices], [name for _, name in devices]
    return {"agents": agents, "names": names}
