"""The agent process: assignments come in for its devices, states and results go out."""

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import get_args

from icefarm_agent.behaviours import Behaviour
from icefarm_agent.board import Board
from icefarm_agent.device import Device
from icefarm_agent.dispatch import Dispatch
from icefarm_agent.draining import Drain, DrainedError, Draining
from icefarm_agent.log_publisher import LogPublisher
from icefarm_agent.metrics import BROKER
from icefarm_agent.outbox import Outbox
from icefarm_agent.streams import DeviceStream, Subscriptions
from icefarm_agent.usb.configuration import Configuration
from icefarm_agent.usb.discovery import Discovery
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
    AgentCommand,
    AgentState,
    AgentStatus,
    AgentStopping,
    Assignment,
    DeviceCommand,
    DeviceState,
    Presence,
)
from icefarm_schemas.topics import (
    AgentCommandTopic,
    AgentStateTopic,
    AgentWishTopic,
    AssignmentTopic,
    CommandTopic,
    DeviceStateTopic,
    EventsTopic,
    SessionStateTopic,
)

_SESSION_EXPIRY = 300
"""Seconds for which commands queue at the broker while the agent is away."""
_FAREWELL = 2.0
"""Seconds that telling the holders of a stop may take."""

log = logging.getLogger(__name__)


class Agent:
    """Runs boards, which may come and go, until it is cancelled.

    `name` is its name in topics, and at the broker; `labels` are those of all its boards.
    With a `configuration`, it finds the boards that are plugged in; others may be added.
    """

    def __init__(
        self,
        name: str,
        address: BrokerAddress,
        behaviours: Mapping[str, type[Behaviour]],
        labels: Mapping[str, str] | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self._name = name
        self._discovery = (
            None
            if configuration is None
            else Discovery(configuration, found=self.add, lost=self.remove)
        )
        self._behaviours, self._labels = behaviours, labels
        boot_id = secrets.token_hex(4)
        self._state = AgentState(
            status=AgentStatus.ONLINE,
            contract=CONTRACT_VERSION,
            version=version("icefarm-agent"),
            boot_id=boot_id,
            behaviours=tuple(behaviours),
        )
        offline = AgentState(status=AgentStatus.OFFLINE)
        self._connection = Connection(
            address,
            f"agent-{name}",
            PresenceMessages(AgentStateTopic(name), self._state, offline, farewell=offline),
            subscriptions=[
                kind.pattern(address.root, agent=name)
                for kind in (
                    AssignmentTopic,
                    AgentWishTopic,
                    AgentCommandTopic,
                    # Its own, of which somebody may think that they are left over.
                    AgentStateTopic,
                    DeviceStateTopic,
                )
            ],
            session_expiry=_SESSION_EXPIRY,
            clean_start=False,
        )
        self._states = RetainedStates(self._connection, DeviceStateTopic)
        self._outbox = Outbox(self._connection)
        self._subscriptions = Subscriptions(self._connection)
        self._devices: dict[str, Device] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._news = asyncio.Event()
        self._draining = Draining(boot_id, self._is_idle, self._news.set)
        self._dispatch = Dispatch(name, self._devices, self._outbox)
        self._assignments: dict[str, Assignment] = {}
        self._served: set[str] = set()
        self._left: set[str] = set()
        # Commands that queued while the agent was away come before its assignments do.
        self._early: list[Received] | None = None
        self._is_wished = False

    def add(self, board: Board) -> None:
        """Offer a board, before the agent runs or while it does."""
        if board.name in self._devices:
            log.error("a second board %s is left alone; names must be unique here", board.name)
            return
        device = Device(
            self._name,
            board,
            self._behaviours,
            partial(self._states.hold, DeviceStateTopic(self._name, board.name)),
            self._outbox,
            partial(DeviceStream, self._connection, self._subscriptions, self._name, self._outbox),
            self._labels,
        )
        if (assignment := self._assignments.get(board.name)) is not None:
            device.assign(assignment, retained=True)
        self._devices[board.name] = device
        self._news.set()
        if self._tasks is not None:
            self._start(device)

    def remove(self, board: Board) -> None:
        """Forget a board that is gone."""
        device = self._devices.pop(board.name, None)
        if device is not None:
            self._news.set()
            self._lives[board.name].cancel()

    def _start(self, device: Device) -> None:
        assert self._tasks is not None  # It runs.
        before = self._lives.get(device.name)
        self._lives[device.name] = self._tasks.create_task(self._live(device, before))

    async def _live(self, device: Device, before: asyncio.Task[None] | None) -> None:
        """Run a device, when an earlier one of the same name has let go of its board."""
        if before is not None:
            await asyncio.wait([before])
        try:
            await device.run()
        finally:
            if self._devices.get(device.name) is not device:
                self._states.remove(DeviceStateTopic(self._name, device.name))

    def drain(self, seconds: float) -> None:
        """Take no new reservations and end when all are over, or after so many seconds."""
        self._draining.end_after(seconds)

    def _is_idle(self) -> bool:
        return all(device.assignment is None for device in self._devices.values())

    async def run(self) -> int:
        """Work until it is drained, and return the exit code that is asked for.

        Raises:
            TakenOverError: another agent of the same name has connected.
        """
        BROKER.watch(self._connection)
        publisher = LogPublisher(self._name, self._connection)
        code = 0
        try:
            with publisher.installed():
                await self._run(publisher)
        except* DrainedError as drained:
            [code] = {error.code for error in _leaves(drained)}
        return code

    async def _run(self, publisher: LogPublisher) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._draining.run())
            # Boards are found and made ready meanwhile, also while there is no broker.
            if self._discovery is not None:
                self._tasks.create_task(self._discovery.run())
            for device in self._devices.values():
                self._start(device)
            try:
                async with self._connection:
                    await self._take_part(publisher)
            finally:
                await self._end_lives()

    async def _take_part(self, publisher: LogPublisher) -> None:
        """Talk with the farm until cancelled; then let go of the boards and say so."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._states.run())
                tasks.create_task(self._outbox.run())
                tasks.create_task(self._tell_news())
                tasks.create_task(publisher.run())
        finally:
            await self._end_lives()
            await self._tell_holders(None)
            publisher.flush()

    async def _end_lives(self) -> None:
        self._tasks = None  # What is found now is not started any more.
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        if lives:
            await asyncio.wait(lives)

    async def _tell_news(self) -> None:
        """Say how many devices there are, and whether the agent drains, also to its holders."""
        told: Drain | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            drain = self._draining.now
            changes = {"devices": len(self._devices)} | (
                {}
                if drain is None
                else {"status": AgentStatus.DRAINING, "drains_until": drain.until}
            )
            await self._connection.introduce_as(self._state.model_copy(update=changes))
            if drain is not None and drain is not told:
                await self._tell_holders(drain.until)
            told = drain

    async def _tell_holders(self, until: datetime | None) -> None:
        """Whose boards stop with this agent: then, or now.

        If it does not come back, control takes them away.
        """
        held: dict[EventsTopic, dict[str, list[str]]] = {}
        for device in self._devices.values():
            if (holds := device.assignment) is not None:
                topic = EventsTopic(holds.client, holds.session)
                held.setdefault(topic, {}).setdefault(holds.reservation, []).append(device.name)
        events = [
            (
                topic,
                AgentStopping(
                    reservation=name, agent=self._name, devices=tuple(devices), until=until
                ),
            )
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
                    self._is_wished = False
                case Received(AssignmentTopic(_, device), assignment, delivery):
                    await self._assign(device, assignment, delivery.retain)
                case Synced():
                    # An assignment that is not retained is none that was removed: the broker may
                    # have forgotten it. Control sees what the devices serve, and says so.
                    early, self._early = self._early or [], None
                    for command in early:
                        await self._take(command)
                    # It was removed while this agent was away; or the broker has forgotten it, and
                    # control will say so again.
                    if not self._is_wished:
                        self._draining.follow(None, retained=True)
                case Received(AgentWishTopic(), wish, delivery):
                    self._is_wished = wish is not None
                    self._draining.follow(wish, retained=delivery.retain)
                case Received(AgentCommandTopic(_, operation), DeviceCommand(device=name)):
                    self._obey(operation, name)
                case Received(topic) if isinstance(topic, CommandTopic):
                    if self._early is None:
                        await self._take(happening)
                    else:
                        self._early.append(happening)
                case Received(AgentStateTopic(), state, delivery) if not delivery.retain:
                    # As control does for an agent that is away: the two have met on their way.
                    if state is None or state.status is AgentStatus.OFFLINE:
                        self._news.set()
                case Received(
                    DeviceStateTopic(_, device), DeviceState(port=str(port)) as state, delivery
                ) if delivery.retain:
                    # Reported by a former life of this agent, else it would be here.
                    if device not in self._devices and self._discovery is not None:
                        self._discovery.remember(port, device, state.product)
                case Received(SessionStateTopic(client, session), state):
                    if state is None or state.status is Presence.OFFLINE:
                        self._end_streams_of(client, session)
                case Invalid(_, why, delivery):
                    log.warning("ignored a message on %s: %s", delivery.topic, why)

    def _obey(self, operation: str, name: str) -> None:
        """Do what an operator wants of a device, whoever holds it."""
        device = self._devices.get(name)
        if device is None:
            log.warning("an operator has a command for %s, which is not here now", name)
        elif operation == AgentCommand.RESTART_DEVICE:
            device.restart()
        elif self._discovery is None or not self._discovery.forget(name):
            # It is on no bus, so it is found where it was.
            self.remove(device.board)
            self.add(device.board)

    async def _take(self, command: Received) -> None:
        await self._dispatch.take(command)
        reservation = command.topic.reservation  # type: ignore[attr-defined]
        if reservation not in self._served | self._left:
            # A former life of this agent has subscribed to it, in the session that it left.
            self._left.add(reservation)
            await self._connection.unsubscribe(*self._commands(reservation))

    async def _assign(self, name: str, assignment: Assignment | None, retained: bool) -> None:
        if assignment is None:
            self._assignments.pop(name, None)
        else:
            self._assignments[name] = assignment
            # Before the device says that it is ready, so that no command is missed.
            await self._serve(assignment.reservation)
        device = self._devices.get(name)
        if device is not None:
            device.assign(assignment, retained=retained)
        elif assignment is not None:
            log.warning("control assigned %s, which is not here now", name)
        await self._serve_no_longer()
        self._draining.look()

    async def _serve(self, reservation: str) -> None:
        if reservation not in self._served:
            self._served.add(reservation)
            self._left.discard(reservation)
            await self._connection.subscribe(*self._commands(reservation))

    async def _serve_no_longer(self) -> None:
        """Stop listening to reservations that no device is assigned to: this is the fencing."""
        assigned = {assignment.reservation for assignment in self._assignments.values()}
        for reservation in self._served - assigned:
            self._served.discard(reservation)
            await self._connection.unsubscribe(*self._commands(reservation))

    def _commands(self, reservation: str) -> list[str]:
        root = self._connection.root
        return [kind.pattern(root, reservation=reservation) for kind in get_args(CommandTopic)]

    def _end_streams_of(self, client: str, session: str) -> None:
        """A session is gone: what it had open is free for whoever has the reservation next."""
        why = f"the session {session!r} of {client!r}, which had it open, is gone"
        for device in self._devices.values():
            device.end_stream_of(client, session, why)


def _leaves(group: BaseExceptionGroup[DrainedError]) -> Iterator[DrainedError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
