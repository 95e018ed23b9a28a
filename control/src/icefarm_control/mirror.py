"""Postgres, mirrored to retained topics: assignments to agents, the state of each reservation."""

import logging

from icefarm_broker import BrokerError, Connection, RetainedStates
from icefarm_control.reservations import Held
from icefarm_schemas import Assignment, ReservationStatus
from icefarm_schemas.topics import AssignmentTopic, ReservationStateTopic

log = logging.getLogger(__name__)

MIRRORED = (AssignmentTopic, ReservationStateTopic)


class Mirror:
    """What the broker should hold of the reservations that are live."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.states = RetainedStates(connection, *MIRRORED)
        self._reservations: dict[AssignmentTopic, str] = {}
        self.queued: set[str] = set()
        """The reservations that wait for devices."""

    def load(self, live: list[Held]) -> None:
        """Hold exactly these reservations."""
        self._reservations.clear()
        self.queued.clear()
        topics = set()
        for held in live:
            topics |= self._hold(held)
        self.states.keep_only(topics)

    def check(self, agent: str, device: str, reservation: str | None) -> None:
        """A device reports which reservation it serves; one that is not its own is told so.

        An agent does not take an assignment that is missing for one that was removed: the broker
        may have lost its memory.
        """
        topic = AssignmentTopic(agent, device)
        if reservation is not None and self._reservations.get(topic) != reservation:
            self.states.repeat(topic)

    async def apply(self, held: Held) -> None:
        """Hold a reservation that was made or changed; tell of one that has ended and drop it."""
        state = held.state
        self.queued.discard(state.reservation)
        if state.status is not ReservationStatus.ENDED:
            self._hold(held)
            return
        topic = ReservationStateTopic(state.reservation)
        for device in state.devices:
            assignment = AssignmentTopic(device.agent, device.device)
            if self._reservations.get(assignment) == state.reservation:
                del self._reservations[assignment]
                self.states.remove(assignment)
        # A state that is retained and then removed would not say why it ended.
        try:
            await self._connection.publish(topic, state, retain=False)
        except BrokerError as error:
            log.debug("nobody was told of an end: %s", error)
        self.states.remove(topic)

    def _hold(self, held: Held) -> set[AssignmentTopic | ReservationStateTopic]:
        state = held.state
        reservation = ReservationStateTopic(state.reservation)
        self.states.hold(reservation, state)
        topics: set[AssignmentTopic | ReservationStateTopic] = {reservation}
        if state.expires_at is None:
            self.queued.add(state.reservation)
            return topics
        assignment = Assignment(
            reservation=state.reservation,
            client=state.client,
            session=state.session,
            behaviour=state.behaviour,
            arguments=held.arguments,
            expires_at=state.expires_at,
        )
        for device in state.devices:
            topic = AssignmentTopic(device.agent, device.device)
            self.states.hold(topic, assignment)
            self._reservations[topic] = state.reservation
            topics.add(topic)
        return topics
