"""What a client knows of the farm, from retained states, and a way to wait for a change of it."""

import asyncio
import math
import time
from contextlib import suppress
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

CERTAIN_AFTER = 30.0
"""Seconds for which a reservation must not be heard of, while control is there, to be over. Within
twice the keep-alive, a connection that is silent has been noticed and made again."""
_LOOK_AGAIN = 1.0


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
        self._served_since: float | None = None
        self._unheard_since: dict[str, float] = {}
        self._change = asyncio.Event()
        self.version = 0
        """How many changes there have been."""

    def reconnected(self) -> None:
        """What is retained comes again; what does not has been removed, or is yet to be told."""
        now = time.monotonic()
        self._served_since = None
        self._unheard_since = dict.fromkeys(self.reservations, now)

    def expect(self, state: ReservationState) -> None:
        """Control has told of a reservation in a reply, so its state must come, or it is over."""
        if state.reservation not in self.reservations and state.reservation not in self.ended:
            self.reservations[state.reservation] = state
            self._unheard_since[state.reservation] = time.monotonic()

    def find_end(self, reservation: str) -> ReservationState | None:
        """The last state of a reservation that is over, also when nothing has told its end.

        An end is told once, so that a client which is away, and whose broker forgets, misses it.
        """
        unheard = self._unheard_since.get(reservation, math.inf)
        served = math.inf if self._served_since is None else self._served_since
        # A broker that has lost its memory is told by control what is live.
        if time.monotonic() - max(unheard, served) > CERTAIN_AFTER:
            self._put_reservation(reservation, None)
        return self.ended.get(reservation)

    def observe(self, received: Received) -> None:
        """Take note of a state."""
        match received:
            case Received(ControlStateTopic(), message):
                self.control = message
                if not self.is_served:
                    self._served_since = None
                elif self._served_since is None:
                    self._served_since = time.monotonic()
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
        self._unheard_since.pop(reservation, None)
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

    async def changed_or_time(self) -> None:
        """Return at the next change, or when it is time to look at the clock."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN):
                await self.changed()

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
