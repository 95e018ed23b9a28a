"""What a client listens to: what its reservations need, or the whole farm."""

import asyncio

from icefarm.holding import Holding
from icefarm.leasing import Lease
from icefarm.session import Session
from icefarm_schemas import ReservationState
from icefarm_schemas.topics import (
    AgentStateTopic,
    DeviceStateTopic,
    NoteTopic,
    ReservationStateTopic,
)


class Subscriptions:
    """The reservations that are in use here, their leases, and the topics of their boards."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: dict[str, Holding] = {}
        self._leases: dict[str, asyncio.Task[None]] = {}
        self._sees_all = False

    async def hold(self, state: ReservationState, lease: Lease | None) -> Holding:
        """Listen to a reservation and its boards, and keep its lease."""
        name = state.reservation
        holding = self._held[name] = Holding(self._session, state, lease)
        self._session.followed.add(name, holding)
        await self._session.subscribe(*self._topics(state))
        self._session.followed.ask_if_silent(name)
        self._let_lease_end(name)
        if lease is not None:
            self._leases[name] = self._session.later(lease.keep())
        return holding

    async def let_go(self, state: ReservationState) -> None:
        """Undo `hold`."""
        self._let_lease_end(state.reservation)
        self._held.pop(state.reservation, None)
        self._session.followed.remove(state.reservation)
        if self._sees_all:
            return
        # Another reservation may have boards of the same agent.
        needed = {topic for held in self._held.values() for topic in self._topics(held.state)}
        unneeded = [topic for topic in self._topics(state) if topic not in needed]
        if unneeded:
            await self._session.connection.unsubscribe(*unneeded)

    async def see_all(self) -> None:
        """Listen to all agents and boards from now on."""
        if not self._sees_all:
            root = self._session.root
            await self._session.subscribe(
                AgentStateTopic.pattern(root),
                DeviceStateTopic.pattern(root),
                NoteTopic.pattern(root),
            )
            self._sees_all = True

    def _let_lease_end(self, reservation: str) -> None:
        keeper = self._leases.pop(reservation, None)
        if keeper is not None:
            keeper.cancel()

    def _topics(self, state: ReservationState) -> list[str]:
        root = self._session.root
        agents = {device.agent for device in state.devices}
        return [
            ReservationStateTopic(state.reservation).build(root),
            *(AgentStateTopic(agent).build(root) for agent in sorted(agents)),
            *(DeviceStateTopic(d.agent, d.device).build(root) for d in state.devices),
        ]
