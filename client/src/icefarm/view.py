"""What a client knows of the farm, from retained states, and a way to wait for a change of it."""

import asyncio
import time
from dataclasses import dataclass

from icefarm_broker import Received
from icefarm_schemas import (
    AgentState,
    ControlState,
    DeviceState,
    DeviceStatus,
    Presence,
    ReservationState,
    ReservationStatus,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    ControlStateTopic,
    DeviceStateTopic,
    ReservationStateTopic,
)


@dataclass(frozen=True)
class Board:
    """A board of the farm, as its agent reports it.

    `status` is one of preparing, available, starting, ready, cleaning, broken, or away when its
    agent is. `detail` says why it is broken.
    """

    name: str
    agent: str
    product: str
    status: str
    behaviours: tuple[str, ...]
    behaviour: str | None
    reservation: str | None
    detail: str | None


@dataclass(frozen=True)
class Agent:
    """An agent of the farm: a machine with boards."""

    name: str
    online: bool
    version: str | None
    boards: int


class View:
    """The latest states that have come."""

    def __init__(self) -> None:
        self.control: ControlState | None = None
        self.agents: dict[str, AgentState] = {}
        self.devices: dict[tuple[str, str], DeviceState] = {}
        self.reservations: dict[str, ReservationState] = {}
        self.ended: dict[str, ReservationState] = {}
        self._offline_since: dict[str, float] = {}
        self._change = asyncio.Event()
        self.version = 0
        """How many changes there have been."""

    def observe(self, received: Received) -> None:
        """Take note of a state."""
        match received:
            case Received(ControlStateTopic(), message):
                self.control = message
            case Received(AgentStateTopic(agent), message):
                self._put(self.agents, agent, message)
                if message is not None and message.status is Presence.ONLINE:
                    self._offline_since.pop(agent, None)
                else:
                    self._offline_since.setdefault(agent, time.monotonic())
            case Received(DeviceStateTopic(agent, device), message):
                self._put(self.devices, (agent, device), message)
            case Received(ReservationStateTopic(reservation), message):
                self._put_reservation(reservation, message)
            case _:
                return
        self.version += 1
        self._change.set()
        self._change = asyncio.Event()

    def _put_reservation(self, reservation: str, state: ReservationState | None) -> None:
        if state is not None and state.status is not ReservationStatus.ENDED:
            self.reservations[reservation] = state
            return
        last = self.reservations.pop(reservation, None)
        # Without its end it was removed while this client was away.
        end = state or last
        if end is not None:
            self.ended.setdefault(reservation, end)

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

    async def changed(self) -> None:
        """Return at the next change."""
        await self._change.wait()

    def offline_for(self, agent: str) -> float:
        """Seconds for which an agent has been away; 0 when it is there."""
        since = self._offline_since.get(agent)
        return 0.0 if since is None else time.monotonic() - since

    def is_ready(self, agent: str, device: str, reservation: str) -> bool:
        """Whether a device serves a reservation."""
        state = self.devices.get((agent, device))
        return (
            state is not None
            and state.status is DeviceStatus.READY
            and state.reservation == reservation
        )

    def list_boards(self) -> list[Board]:
        """All boards, by agent and name."""
        return [
            Board(
                name=name,
                agent=agent,
                product=state.product,
                status=state.status if self._is_online(agent) else "away",
                behaviours=state.behaviours,
                behaviour=state.behaviour,
                reservation=state.reservation,
                detail=state.detail,
            )
            for (agent, name), state in sorted(self.devices.items())
        ]

    def list_agents(self) -> list[Agent]:
        """All agents, by name."""
        return [
            Agent(
                name=name,
                online=self._is_online(name),
                version=state.version,
                boards=sum(agent == name for agent, _ in self.devices),
            )
            for name, state in sorted(self.agents.items())
        ]

    def _is_online(self, agent: str) -> bool:
        state = self.agents.get(agent)
        return state is not None and state.status is Presence.ONLINE
