"""Postgres, mirrored to retained topics: assignments to agents, the state of each reservation."""

from contextlib import suppress

from icefarm_broker import Connection, NobodyListensError, RetainedStates
from icefarm_control.reservations import Held
from icefarm_schemas import Assignment, ReservationStatus
from icefarm_schemas.topics import AssignmentTopic, ReservationStateTopic

MIRRORED = (AssignmentTopic, ReservationStateTopic)


class Mirror:
    """What the broker should hold of the reservations that are live."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.states = RetainedStates(connection, *MIRRORED)

    def load(self, live: list[Held]) -> None:
        """Hold exactly these reservations."""
        topics = set()
        for held in live:
            topics |= self._hold(held)
        self.states.keep_only(topics)

    async def apply(self, held: Held) -> None:
        """Hold a reservation that was made or changed; tell of one that has ended and drop it."""
        state = held.state
        if state.status is ReservationStatus.ACTIVE:
            self._hold(held)
            return
        topic = ReservationStateTopic(state.reservation)
        for device in state.devices:
            self.states.remove(AssignmentTopic(device.agent, device.device))
        # A state that is retained and then removed would not say why it ended.
        with suppress(NobodyListensError):
            await self._connection.publish(topic, state, retain=False)
        self.states.remove(topic)

    def _hold(self, held: Held) -> set[AssignmentTopic | ReservationStateTopic]:
        state = held.state
        assignment = Assignment(
            reservation=state.reservation,
            client=state.client,
            session=state.session,
            behaviour=state.behaviour,
            arguments=held.arguments,
            expires_at=state.expires_at,
        )
        topics: set[AssignmentTopic | ReservationStateTopic] = set()
        for device in state.devices:
            topic = AssignmentTopic(device.agent, device.device)
            self.states.hold(topic, assignment)
            topics.add(topic)
        reservation = ReservationStateTopic(state.reservation)
        self.states.hold(reservation, state)
        return topics | {reservation}
