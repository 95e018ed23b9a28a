"""What a client knows of the farm, from retained states, and a way to wait for a change of it."""

import asyncio
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from icefarm_broker import Received
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    Availability,
    ControlState,
    DeviceState,
    DeviceStatus,
    EndReason,
    Note,
    Presence,
    ReservationState,
    ReservationStatus,
)
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    AgentStateTopic,
    AvailabilityTopic,
    ControlStateTopic,
    DeviceStateTopic,
    NoteTopic,
    ReservationStateTopic,
)


@dataclass(frozen=True)
class Board:
    """A board of the farm, as its agent reports it.

    Attributes:
        name: what it is called.
        agent: the machine that it is plugged into.
        product: what kind of board it is, such as pico-ice.
        status: preparing, available, starting, ready, cleaning, broken; away when its agent is,
            and draining when it is given to nobody because its agent is being drained.
        behaviours: what it can do.
        labels: what the farm's keepers say of it, to choose boards by.
        behaviour: what it does now.
        reservation: the id of the one that it is in.
        detail: why it is broken, and what to do.
        note: what an operator has written about it.
    """

    name: str
    agent: str
    product: str
    status: str
    behaviours: tuple[str, ...]
    labels: dict[str, str]
    behaviour: str | None
    reservation: str | None
    detail: str | None
    note: str | None


@dataclass(frozen=True)
class Agent:
    """An agent of the farm: a machine with boards.

    Attributes:
        name: what it is called, as in its boards' `agent`.
        online: whether it is connected to the broker.
        status: online, draining (its boards are given to nobody) or offline.
        drains_until: when its holders' boards are taken back at last, where it is draining.
        version: of its software; None where it has not told.
        boards: how many it has.
        boot_id: another one after each start of its process; None while it is offline.
    """

    name: str
    online: bool
    status: AgentStatus
    drains_until: datetime | None
    version: str | None
    boards: int
    boot_id: str | None


class View:
    """The latest states that have come."""

    def __init__(self) -> None:
        self.control: ControlState | None = None
        self.agents: dict[str, AgentState] = {}
        self.devices: dict[tuple[str, str], DeviceState] = {}
        self.notes: dict[tuple[str, str], Note] = {}
        self.reservations: dict[str, ReservationState] = {}
        self.ended: dict[str, EndReason | None] = {}
        """Why reservations ended; None where this client was not told."""
        self.availability: Availability | None = None
        self.is_connected = True
        """Whether the broker is there; what else is known here is as it was when it went away."""
        # What has not come again since the connection was made again.
        self._unconfirmed: set[tuple[type[Topic], Any]] = set()
        self._change = asyncio.Event()
        self.version = 0
        """How many changes there have been."""

    def observe(self, received: Received) -> None:
        """Take note of a state."""
        match received:
            case Received(ControlStateTopic(), message):
                self.control = message
            case Received(AgentStateTopic(agent), message):
                self._unconfirmed.discard((AgentStateTopic, agent))
                self._put(self.agents, agent, message)
            case Received(DeviceStateTopic(agent, device), message):
                self._unconfirmed.discard((DeviceStateTopic, (agent, device)))
                self._put(self.devices, (agent, device), message)
            case Received(NoteTopic(agent, device), message):
                self._unconfirmed.discard((NoteTopic, (agent, device)))
                self._put(self.notes, (agent, device), message)
            case Received(ReservationStateTopic(reservation), ReservationState() as state):
                self._unconfirmed.discard((ReservationStateTopic, reservation))
                self.put(state)
                return
            case Received(ReservationStateTopic(reservation)):
                self.end(reservation, None)
                return
            case Received(AvailabilityTopic(), message):
                self.availability = message
            case _:
                return
        self.tell()

    def put(self, state: ReservationState) -> None:
        """A reservation is as control says."""
        if state.status is ReservationStatus.ENDED:
            self.end(state.reservation, state.reason)
        elif state.reservation not in self.ended:
            self.reservations[state.reservation] = state
            self.tell()

    def end(self, reservation: str, reason: EndReason | None) -> None:
        """A reservation is over; the first reason that is told counts."""
        self.reservations.pop(reservation, None)
        if self.ended.get(reservation) is None:
            self.ended[reservation] = reason
        self.tell()

    def forget(self, reservation: str) -> None:
        """A reservation that nobody here follows is over."""
        if self.reservations.pop(reservation, None) is not None:
            self.tell()

    def disconnect(self) -> None:
        """The broker is away."""
        self.is_connected = False
        self.tell()

    def begin(self, followed: Collection[str]) -> None:
        """The broker is there, and all that is retained comes, perhaps again.

        Control is asked after the reservations that are `followed`.
        """
        self._unconfirmed = {
            *((AgentStateTopic, agent) for agent in self.agents),
            *((DeviceStateTopic, device) for device in self.devices),
            *((NoteTopic, device) for device in self.notes),
            *((ReservationStateTopic, name) for name in self.reservations if name not in followed),
        }

    def settle(self) -> None:
        """All of it has come; of the rest, nothing was left while the broker was away."""
        known: dict[type[Topic], dict[Any, Any]] = {
            AgentStateTopic: self.agents,
            DeviceStateTopic: self.devices,
            NoteTopic: self.notes,
            ReservationStateTopic: self.reservations,
        }
        for kind, key in self._unconfirmed:
            known[kind].pop(key, None)
        self._unconfirmed = set()
        self.is_connected = True
        self.tell()

    def keep_reservations(self, followed: Collection[str]) -> None:
        """Forget the others."""
        self.reservations = {k: v for k, v in self.reservations.items() if k in followed}

    def tell(self) -> None:
        """Wake those who wait for a change."""
        self.version += 1
        self._change.set()
        self._change = asyncio.Event()

    @staticmethod
    def _put(states: dict, key: object, message: object) -> None:  # type: ignore[type-arg]
        if message is None:
            states.pop(key, None)
        else:
            states[key] = message

    @property
    def is_served(self) -> bool:
        """Whether control is there."""
        return self.control is not None and self.control.status is Presence.ONLINE

    def changed(self) -> Coroutine[Any, Any, bool]:
        """Wait for the next change after this call, though it may be awaited later."""
        return self._change.wait()

    def is_ready(
        self, agent: str, device: str, reservation: str, generation: int | None = None
    ) -> bool:
        """Whether a device serves a reservation, in this generation or a later one."""
        state = self.devices.get((agent, device))
        return (
            state is not None
            and self._is_online(agent)
            and state.status is DeviceStatus.READY
            and state.reservation == reservation
            and (generation is None or (state.generation or 1) >= generation)
        )

    def list_boards(self) -> list[Board]:
        """All boards, by agent and name."""
        return [
            Board(
                name=name,
                agent=agent,
                product=state.product,
                status=self._status_of(agent, state),
                behaviours=state.behaviours,
                labels=state.labels,
                behaviour=state.behaviour,
                reservation=state.reservation,
                detail=state.detail,
                note=self.notes[agent, name].text if (agent, name) in self.notes else None,
            )
            for (agent, name), state in sorted(self.devices.items())
        ]

    def list_agents(self) -> list[Agent]:
        """All agents, by name."""
        return [
            Agent(
                name=name,
                online=self._is_online(name),
                status=state.status,
                drains_until=state.drains_until,
                version=state.version,
                boards=sum(agent == name for agent, _ in self.devices),
                boot_id=state.boot_id,
            )
            for name, state in sorted(self.agents.items())
        ]

    def _is_online(self, agent: str) -> bool:
        state = self.agents.get(agent)
        return state is not None and state.status is not AgentStatus.OFFLINE

    def _status_of(self, agent: str, state: DeviceState) -> str:
        if not self._is_online(agent):
            return "away"
        if state.status is DeviceStatus.AVAILABLE:
            is_draining = self.agents[agent].status is AgentStatus.DRAINING
            return "draining" if is_draining else "available"
        return state.status
