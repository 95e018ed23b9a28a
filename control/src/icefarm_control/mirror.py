"""Postgres, mirrored to the broker: assignments, reservations, what is available, and events."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from icefarm_broker import BrokerError, Connection, NobodyListensError, RetainedStates
from icefarm_control.database import Database
from icefarm_control.leadership import CHANGED, Leadership
from icefarm_control.metrics import Waits
from icefarm_schemas import (
    AgentCommand,
    AgentWish,
    Assignment,
    Availability,
    DeviceCommand,
    DeviceFailed,
    EndReason,
    FailureReason,
    Message,
    Note,
    ReservationEnded,
    ReservationExpiring,
    ReservationState,
    ReservationStatus,
    What,
)
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    AgentCommandTopic,
    AgentStateTopic,
    AgentWishTopic,
    AssignmentTopic,
    AvailabilityTopic,
    DeviceStateTopic,
    EventsTopic,
    NoteTopic,
    ReservationStateTopic,
)

log = logging.getLogger(__name__)

MIRRORED = (AssignmentTopic, ReservationStateTopic, AgentWishTopic, NoteTopic)

_COMMAND_WAITS = 60
"""Seconds for which a command may wait for its agent."""

_STATES = """
    WITH place AS (
        SELECT id, row_number() OVER (ORDER BY priority DESC, created_at, id) AS number
        FROM reservation WHERE status = 'queued'
    )
    SELECT state_of(id, place.number) AS state, assignments_of(id) AS assignments
    FROM unnest(%(ids)s::text[]) AS id LEFT JOIN place USING (id)
"""
_COUNT = """
    WITH counted AS (
        SELECT product, behaviours, count(*) AS total,
               count(*) FILTER (
                   WHERE reservation IS NULL AND online AND status = 'available'
                         AND NOT draining
               ) AS available
        FROM device WHERE status <> 'gone' GROUP BY product, behaviours
    )
    SELECT 'devices' AS what, '' AS name, sum(available)::int AS available, sum(total)::int AS total
    FROM counted HAVING count(*) > 0
    UNION ALL
    SELECT 'products', product, sum(available)::int, sum(total)::int FROM counted GROUP BY product
    UNION ALL
    SELECT 'behaviours', behaviour, sum(available)::int, sum(total)::int
    FROM counted, unnest(behaviours) AS behaviour GROUP BY behaviour
    UNION ALL
    SELECT 'queued', '', 0, count(*)::int FROM reservation WHERE status = 'queued'
"""


class Mirror:
    """What the broker should hold, and what those concerned should hear."""

    def __init__(self, connection: Connection, database: Database, leadership: Leadership) -> None:
        self._connection, self._database = connection, database
        self._leadership = leadership
        self.states = RetainedStates(connection, *MIRRORED)
        self._holders: dict[AssignmentTopic, str] = {}
        self._devices: dict[str, set[AssignmentTopic]] = {}
        self._wanted: set[AgentWishTopic | NoteTopic] = set()
        self.waits = Waits()
        self.queued: set[str] = set()
        """The reservations that wait for devices."""
        self._events: asyncio.Queue[tuple[EventsTopic, Message]] = asyncio.Queue()
        self._commands: asyncio.Queue[tuple[Topic, Message | bytes]] = asyncio.Queue()

    async def run(self) -> None:
        """Publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.states.run())
            tasks.create_task(self._command())
            while True:
                topic, event = await self._events.get()
                tasks.create_task(self._publish(topic, event))

    async def load(self) -> None:
        """Hold all live reservations, and what operators want, as they are now."""
        await self._hold_wanted()
        rows = await self._database.call("SELECT id FROM reservation WHERE status <> 'ended'")
        for state, assignments in await self._read({row["id"] for row in rows}):
            self._hold(state, assignments)

    async def update(self) -> bool:
        """Bring what has happened since the last time, if anything, to those concerned."""
        # A process that led until a moment ago must not take what the next one has to tell.
        leads, parameters = self._leadership.condition
        happened = await self._database.call(
            f"UPDATE transition SET told = true WHERE NOT told AND {leads} "
            f"RETURNING *, pg_notify('{CHANGED}', '')",
            parameters,
        )
        if not happened:
            return False
        happened.sort(key=lambda row: row["number"])
        ended = {row["reservation"]: row["why"] for row in happened if row["what"] == What.ENDED}
        changed = {row["reservation"] for row in happened}
        # Whoever is behind one that has left the queue has moved up.
        read = await self._read((changed | self.queued) - ended.keys())
        # Why something changes is told before it does.
        for row in happened:
            _log(row)
            self.waits.see(row)
            for event in _events_of(row):
                self._events.put_nowait((EventsTopic(row["client"], row["session"]), event))
        for reservation, reason in ended.items():
            self._end(reservation, EndReason(reason))
        for state, assignments in read:
            # It may have ended since, of which the next transition tells.
            if state.status is not ReservationStatus.ENDED:
                self._hold(state, assignments)
        return True

    async def count(self) -> None:
        """Say how many devices are available."""
        counts: dict[str, Any] = {"devices": {"available": 0, "total": 0}}
        for row in await self._database.call(_COUNT):
            count = {"available": row["available"], "total": row["total"]}
            match row["what"]:
                case "queued":
                    counts["queued"] = row["total"]
                case "devices":
                    counts["devices"] = count
                case kind:
                    counts.setdefault(kind, {})[row["name"]] = count
        self.states.hold(AvailabilityTopic(), Availability.model_validate(counts))

    @property
    def has_wishes(self) -> bool:
        """Whether there is something that operators want of agents, or have noted."""
        return bool(self._wanted)

    async def tell_agents(self, online: Collection[str]) -> None:
        """Let the broker hold what operators want of agents and devices, and pass commands on.

        Agents that are not `online` cannot forget; what they have left is removed for them.
        """
        await self._hold_wanted()
        leads, parameters = self._leadership.condition
        commands = await self._database.call(
            f"DELETE FROM command WHERE {leads} RETURNING *", parameters
        )
        for row in sorted(commands, key=lambda row: row["number"]):
            agent, device, operation = row["agent"], row["device"], row["operation"]
            if not device:
                if agent not in online:
                    self._commands.put_nowait((AgentStateTopic(agent), b""))
            elif operation == "remove" or (
                operation == AgentCommand.FORGET and agent not in online
            ):
                self._commands.put_nowait((DeviceStateTopic(agent, device), b""))
            else:
                command = DeviceCommand(device=device)
                self._commands.put_nowait((AgentCommandTopic(agent, operation), command))

    async def _hold_wanted(self) -> None:
        wanted: set[AgentWishTopic | NoteTopic] = set()
        for row in await self._database.call("SELECT * FROM wanted_of_agents()"):
            topic: AgentWishTopic | NoteTopic
            if row["device"] is None:
                topic = AgentWishTopic(row["agent"])
                self.states.hold(topic, AgentWish.model_validate(row["message"]))
            else:
                topic = NoteTopic(row["agent"], row["device"])
                self.states.hold(topic, Note.model_validate(row["message"]))
            wanted.add(topic)
        for topic in self._wanted - wanted:
            self.states.remove(topic)
        self._wanted = wanted

    async def _command(self) -> None:
        while True:
            topic, message = await self._commands.get()
            try:
                await self._connection.publish(topic, message, expiry=_COMMAND_WAITS)
            except BrokerError as error:
                log.warning("a command to an agent was not taken: %s", error)

    def check(self, agent: str, device: str, reservation: str | None) -> None:
        """A device reports which reservation it serves; one that is not its own is told so.

        An agent does not take an assignment that is missing for one that was removed: the broker
        may have lost its memory.
        """
        topic = AssignmentTopic(agent, device)
        if reservation is not None and self._holders.get(topic) != reservation:
            self.states.repeat(topic)

    async def _read(self, ids: set[str]) -> list[tuple[ReservationState, list[dict[str, Any]]]]:
        if not ids:
            return []
        rows = await self._database.call(_STATES, {"ids": sorted(ids)})
        return [(ReservationState.model_validate(r["state"]), r["assignments"]) for r in rows]

    def _hold(self, state: ReservationState, assignments: list[dict[str, Any]]) -> None:
        self.states.hold(ReservationStateTopic(state.reservation), state)
        if state.status is ReservationStatus.QUEUED:
            self.queued.add(state.reservation)
            self.waits.see_queued(state)
        else:
            self.queued.discard(state.reservation)
        held = set()
        for row in assignments:
            topic = AssignmentTopic(row["agent"], row["device"])
            self.states.hold(topic, Assignment.model_validate(row["assignment"]))
            self._holders[topic] = state.reservation
            held.add(topic)
        self._let_go(state.reservation, self._devices.get(state.reservation, set()) - held)
        self._devices[state.reservation] = held

    def _end(self, reservation: str, reason: EndReason) -> None:
        """Let go of its devices at once, of its state when its holder has been told why."""
        self.queued.discard(reservation)
        self._let_go(reservation, self._devices.pop(reservation, set()))
        if reason is EndReason.RELEASED:
            self.states.remove(ReservationStateTopic(reservation))

    async def _publish(self, topic: EventsTopic, event: Message) -> None:
        try:
            await self._connection.publish(topic, event)
        except NobodyListensError:
            log.debug("nobody listens on %s any more", topic)
        except BrokerError as error:
            log.error("an event was not taken: %s", error)
        if isinstance(event, ReservationEnded):
            self.states.remove(ReservationStateTopic(event.reservation))

    def _let_go(self, reservation: str, topics: set[AssignmentTopic]) -> None:
        for topic in topics:
            # Its next holder may have been read first.
            if self._holders.get(topic) == reservation:
                del self._holders[topic]
                self.states.remove(topic)


def _events_of(happened: dict[str, Any]) -> list[Message]:
    """What the holder is told of a transition; of what a client asked for, the reply tells."""
    reservation = happened["reservation"]
    match What(happened["what"]):
        case What.ENDED if happened["by"] is None or happened["why"] == EndReason.OPERATOR:
            return [ReservationEnded(reservation=reservation, reason=happened["why"])]
        case What.EXPIRING:
            return [ReservationExpiring(reservation=reservation, expires_at=happened["detail"])]
        case What.RETURNED if happened["why"] != FailureReason.OPERATOR:
            return []
        case What.DEVICE_LOST | What.RETURNED:
            return [
                DeviceFailed(
                    reservation=reservation,
                    agent=agent,
                    device=device,
                    reason=FailureReason(happened["why"]),
                    detail=happened["detail"],
                )
                for agent, device in zip(happened["agents"], happened["devices"], strict=True)
            ]
    return []


def _log(happened: dict[str, Any]) -> None:
    log.info(
        "reservation %s of %s: %s%s%s",
        happened["reservation"],
        happened["client"],
        happened["what"],
        f", {happened['why']}" if happened["why"] else "",
        f": {', '.join(happened['devices'])}" if happened["devices"] else "",
        extra={key: happened[key] for key in ("reservation", "client", "devices")},
    )
