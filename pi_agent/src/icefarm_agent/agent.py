"""The agent process: assignments come in for its devices, states and results go out."""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version

from icefarm_agent.behaviours import Behaviour
from icefarm_agent.board import Board
from icefarm_agent.device import Device
from icefarm_agent.evaluations import Evaluation
from icefarm_agent.outbox import Outbox
from icefarm_broker import (
    BrokerAddress,
    Connected,
    Connection,
    Invalid,
    NobodyListensError,
    PresenceMessages,
    Received,
    RetainedStates,
    Synced,
)
from icefarm_schemas import (
    CONTRACT_VERSION,
    AgentState,
    AgentStopping,
    Assignment,
    CommandRefused,
    Error,
    ErrorCode,
    Presence,
)
from icefarm_schemas.topics import (
    DEVICE_PROPERTY,
    AgentStateTopic,
    AssignmentTopic,
    DeviceStateTopic,
    EvaluateTopic,
    EventsTopic,
)

_SESSION_EXPIRY = 300
"""Seconds for which commands queue at the broker while the agent is away."""
_FAREWELL = 2.0
"""Seconds that telling the holders of a stop may take."""

log = logging.getLogger(__name__)


class Agent:
    """Runs its boards until it is cancelled.

    `name` is its name in topics, and at the broker; `labels` are those of all its boards.
    """

    def __init__(
        self,
        name: str,
        address: BrokerAddress,
        boards: Sequence[Board],
        behaviours: Mapping[str, type[Behaviour]],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        online = AgentState(
            status=Presence.ONLINE,
            contract=CONTRACT_VERSION,
            version=version("icefarm-agent"),
            boot_id=secrets.token_hex(4),
            behaviours=tuple(behaviours),
            devices=len(boards),
        )
        offline = AgentState(status=Presence.OFFLINE)
        self._connection = Connection(
            address,
            f"agent-{name}",
            PresenceMessages(AgentStateTopic(name), online, offline, farewell=offline),
            subscriptions=[AssignmentTopic.pattern(address.root, agent=name)],
            snapshots=[DeviceStateTopic.pattern(address.root, agent=name)],
            session_expiry=_SESSION_EXPIRY,
            clean_start=False,
        )
        self._states = RetainedStates(self._connection, DeviceStateTopic)
        self._outbox = Outbox(self._connection)
        self._devices = {
            board.name: Device(
                name,
                board,
                behaviours,
                partial(self._states.hold, DeviceStateTopic(name, board.name)),
                self._outbox,
                labels,
            )
            for board in boards
        }
        self._served: set[str] = set()
        # Commands that queued while the agent was away come before its assignments do.
        self._early: list[Received] | None = None

    async def run(self) -> None:
        """Work for ever.

        Raises:
            TakenOverError: another agent of the same name has connected.
        """
        async with self._connection:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen())
                    tasks.create_task(self._states.run())
                    tasks.create_task(self._outbox.run())
                    for device in self._devices.values():
                        tasks.create_task(device.run())
            finally:
                await self._tell_holders()

    async def _tell_holders(self) -> None:
        """Whose boards stop with this agent; if it does not come back, control takes them away."""
        held: dict[EventsTopic, dict[str, list[str]]] = {}
        for device in self._devices.values():
            if (holds := device.assignment) is not None:
                topic = EventsTopic(holds.client, holds.session)
                held.setdefault(topic, {}).setdefault(holds.reservation, []).append(device.name)
        events = [
            (topic, AgentStopping(reservation=name, agent=self._name, devices=tuple(devices)))
            for topic, reservations in held.items()
            for name, devices in reservations.items()
        ]
        try:
            async with asyncio.timeout(_FAREWELL):
                told = await asyncio.gather(
                    *(self._connection.publish(topic, event) for topic, event in events),
                    return_exceptions=True,
                )
        except TimeoutError:
            log.info("the broker does not answer, so that nobody is told of the stop")
            return
        for (topic, _), error in zip(events, told, strict=True):
            if isinstance(error, NobodyListensError):
                continue
            if isinstance(error, BaseException):
                log.warning("%s was not told of the stop: %s", topic, error)

    async def _listen(self) -> None:
        async for happening in self._connection:
            self._states.observe(happening)
            match happening:
                case Connected():
                    self._early = self._early or []
                case Received(AssignmentTopic(_, device), assignment, delivery):
                    await self._assign(device, assignment, delivery.retain)
                case Synced():
                    # An assignment that is not retained is none that was removed: the broker may
                    # have forgotten it. Control sees what the devices serve, and says so.
                    early, self._early = self._early or [], None
                    for command in early:
                        await self._evaluate(command)
                case Received(EvaluateTopic()) if self._early is not None:
                    self._early.append(happening)
                case Received(EvaluateTopic()):
                    await self._evaluate(happening)
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)

    async def _assign(self, name: str, assignment: Assignment | None, retained: bool) -> None:
        device = self._devices.get(name)
        if device is None:
            if assignment is not None:
                log.warning("control assigned %s, which is not here", name)
            return
        if assignment is not None:
            # Before the device says that it is ready, so that no command is missed.
            await self._serve(assignment.reservation)
        device.assign(assignment, retained=retained)
        await self._serve_no_longer()

    async def _serve(self, reservation: str) -> None:
        if reservation not in self._served:
            self._served.add(reservation)
            await self._connection.subscribe(self._commands(reservation))

    async def _serve_no_longer(self) -> None:
        """Stop listening to reservations that no device is assigned to: this is the fencing."""
        assigned = {d.assignment.reservation for d in self._devices.values() if d.assignment}
        for reservation in self._served - assigned:
            self._served.discard(reservation)
            await self._connection.unsubscribe(self._commands(reservation))

    def _commands(self, reservation: str) -> str:
        return EvaluateTopic.pattern(self._connection.root, reservation=reservation)

    async def _evaluate(self, command: Received) -> None:
        topic, bitstream = command.topic, command.message
        assert isinstance(topic, EvaluateTopic)
        named = {value for key, value in command.delivery.user_properties if key == DEVICE_PROPERTY}
        devices = [
            (device, device.assignment)
            for device in self._devices.values()
            if device.assignment and device.assignment.reservation == topic.reservation
        ]
        if not devices:
            await self._refuse(
                topic,
                ErrorCode.RESERVATION_ENDED,
                f"the reservation {topic.reservation!r} is over, or has no board here",
            )
            return
        if any(assignment.client != topic.client for _, assignment in devices):
            await self._refuse(
                topic,
                ErrorCode.NOT_HOLDER,
                f"the reservation {topic.reservation!r} is held by somebody else, not by "
                f"{topic.client!r}",
            )
            return
        evaluation = Evaluation(topic.evaluation, bitstream, topic.client, topic.session)
        for device, _ in devices:
            if not named or device.name in named:
                await device.evaluate(evaluation)

    async def _refuse(self, topic: EvaluateTopic, code: ErrorCode, message: str) -> None:
        log.info("refused %s: %s", topic.build(self._connection.root), message)
        event = CommandRefused(
            reservation=topic.reservation,
            command="evaluate",
            id=topic.evaluation,
            agent=self._name,
            error=Error(code=code, message=message),
        )
        await self._outbox.put(topic.client, topic.session, event)
