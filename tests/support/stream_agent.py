"""An agent with boards whose streams end in this process: a real connection, without hardware."""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from icefarm_broker import (
    BrokerAddress,
    Connected,
    Connection,
    ConnectionLostError,
    NobodyListensError,
    PresenceMessages,
    Received,
    Stream,
    StreamLostError,
    Synced,
)
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    Assignment,
    CloseStream,
    CommandFinished,
    CommandRefused,
    DeviceState,
    DeviceStatus,
    Error,
    ErrorCode,
    Event,
    OpenStream,
    ResetDevices,
    StreamClosed,
    StreamOpened,
    UsbDescription,
    utc_now,
)
from icefarm_schemas.streams import UsbInterface
from icefarm_schemas.topics import (
    DEVICE_PROPERTY,
    AgentStateTopic,
    AssignmentTopic,
    CloseTopic,
    DeviceStateTopic,
    EventsTopic,
    FlashTopic,
    OpenTopic,
    ResetTopic,
    StreamDownTopic,
    StreamUpTopic,
)

Speak = Callable[[socket.socket], Awaitable[None]]
"""What the device at the far end of a stream does."""

BEHAVIOURS = ("usbip", "serial", "pulsecount")


def describe(number: int = 2) -> UsbDescription:
    """A Pico, at an address of its agent's."""
    return UsbDescription(
        busid="1-1",
        busnum=1,
        devnum=number,
        speed=2,
        vendor=0x2E8A,
        product=0x000A,
        release=0x0100,
        device_class=0xEF,
        subclass=2,
        protocol=1,
        configuration=1,
        configurations=1,
        interfaces=(
            UsbInterface(interface_class=2, subclass=2, protocol=0),
            UsbInterface(interface_class=10, subclass=0, protocol=0),
        ),
    )


async def echo(far: socket.socket) -> None:
    """Send back what comes."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(far, 65536):
        await loop.sock_sendall(far, data)


class _Open:
    """A stream that is open."""

    def __init__(self, topic: OpenTopic, stream: Stream, tasks: list[asyncio.Task[None]]) -> None:
        self.topic, self.stream, self.tasks = topic, stream, tasks


class StreamAgent:
    """Runs while `async with` lasts; its attributes say how its boards behave.

    `errors` are what boards answer to a command, `deaf` those that never answer one; `speak` is
    what devices do, `opened` counts openings by board.
    """

    def __init__(self, url: str, name: str = "pi", boards: tuple[str, ...] = ("a",)) -> None:
        self.name, self.boards = name, boards
        self.speak: Speak = echo
        self.errors: dict[str, Error] = {}
        self.deaf: set[str] = set()
        self.opened = dict.fromkeys(boards, 0)
        self.commands: list[tuple[str, str, bytes]] = []
        self._assignments: dict[str, Assignment] = {}
        self._streams: dict[str, _Open] = {}
        self._resetting: set[asyncio.Task[None]] = set()
        self._done: set[str] = set()
        address = BrokerAddress.parse(url)
        self.connection = Connection(
            address,
            f"agent-{name}",
            PresenceMessages(
                AgentStateTopic(name),
                AgentState(status=AgentStatus.ONLINE, boot_id=secrets.token_hex(4)),
                AgentState(status=AgentStatus.OFFLINE),
            ),
            subscriptions=[AssignmentTopic.pattern(address.root, agent=name)],
            session_expiry=300,
            clean_start=False,
        )

    async def __aenter__(self) -> Self:
        await self.connection.__aenter__()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.die()

    async def die(self) -> None:
        """Be gone without a word, as when the process is killed; the broker says so."""
        for board in list(self._streams):
            await self._end(board)
        for task in (self._listening, *self._resetting):
            task.cancel()
        await asyncio.gather(self._listening, *self._resetting, return_exceptions=True)
        keeper = self.connection._keeper
        mqtt, keeping = keeper.now, keeper._task
        assert keeping is not None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if mqtt is not None and not mqtt.lost.done():
            sock = mqtt._client.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            await asyncio.wait([mqtt.lost])
            mqtt.why_lost()

    async def close_stream(self, board: str, error: Error | None = None) -> None:
        """End a stream as the agent, or its kernel, does."""
        opened = await self._end(board)
        if opened is not None:
            await self._tell_closed(opened.topic, board, error)

    async def report(self, board: str, status: DeviceStatus) -> None:
        """Tell a status of a board that serves its assignment, or is free."""
        assignment = self._assignments.get(board)
        state = DeviceState(
            status=status,
            product="p",
            behaviours=BEHAVIOURS,
            behaviour=assignment and assignment.behaviour,
            reservation=assignment and assignment.reservation,
            generation=assignment and assignment.generation,
            since=utc_now(),
        )
        await self.connection.publish(DeviceStateTopic(self.name, board), state)

    async def _listen(self) -> None:
        free = set(self.boards)
        # Commands that queued while it was away come before its assignments do.
        early: list[Received] | None = []
        async for happening in self.connection:
            match happening:
                case Connected():
                    early = early or []
                case Received(AssignmentTopic(_, board), assignment):
                    free.discard(board)
                    await self._assign(board, assignment)
                case Synced():
                    for board in sorted(free):
                        await self.report(board, DeviceStatus.AVAILABLE)
                    free = set()
                    waiting, early = early or [], None
                    for received in waiting:
                        await self._obey(received)
                case Received() if early is not None:
                    early.append(happening)
                case Received():
                    await self._obey(happening)

    async def _obey(self, received: Received) -> None:
        match received:
            case Received(OpenTopic() as topic, OpenStream(device=board)):
                await self._open(topic, board)
            case Received(CloseTopic() as topic, CloseStream(device=board)):
                opened = self._streams.get(board)
                if opened is not None and opened.topic.stream == topic.stream:
                    await self._pass_on(opened)
                    await self._end(board)
            case Received(FlashTopic() as topic, payload, delivery):
                named = {v for k, v in delivery.user_properties if k == DEVICE_PROPERTY}
                await self._command(topic, "flash", topic.command, named, payload)
            case Received(ResetTopic() as topic, ResetDevices(devices=devices)):
                await self._command(topic, "reset", topic.command, set(devices or ()), b"")

    async def _assign(self, board: str, assignment: Assignment | None) -> None:
        if assignment is None:
            self._assignments.pop(board, None)
            await self._end(board)
            await self.report(board, DeviceStatus.AVAILABLE)
            return
        before = self._assignments.get(board)
        self._assignments[board] = assignment
        if before is None or before.behaviour != assignment.behaviour:
            root, reservation = self.connection.root, assignment.reservation
            await self.connection.subscribe(
                *(
                    kind.pattern(root, reservation=reservation)
                    for kind in (OpenTopic, CloseTopic, FlashTopic, ResetTopic)
                )
            )
            await self.close_stream(board)
            await self.report(board, DeviceStatus.READY)

    async def _open(self, topic: OpenTopic, board: str) -> None:
        assignment = self._assignments[board]
        if assignment.behaviour == "pulsecount":
            error = Error(code=ErrorCode.NOT_SUPPORTED, message="pulsecount has no streams")
            await self._tell_closed(topic, board, error)
            return
        before = await self._end(board)
        if before is not None:
            error = Error(
                code=ErrorCode.STREAM_LOST,
                message="another stream was opened",
                details={"session": topic.session},
            )
            await self._tell_closed(before.topic, board, error)
        self.opened[board] += 1
        names = (topic.reservation, board, topic.client, topic.session)
        up, down = StreamUpTopic(*names), StreamDownTopic(*names)
        await self.connection.subscribe(up.build(self.connection.root))
        inner, far = socket.socketpair()
        far.setblocking(False)
        stream = Stream(self.connection, topic.stream, down, up, inner.detach(), speaks_first=False)
        tasks = [
            asyncio.create_task(self._carry(topic, stream, board)),
            asyncio.create_task(self._run_device(far)),
        ]
        self._streams[board] = _Open(topic, stream, tasks)
        usb = describe(1 + self.opened[board]) if assignment.behaviour == "usbip" else None
        await self._tell(
            topic,
            StreamOpened(
                reservation=topic.reservation,
                stream=topic.stream,
                agent=self.name,
                device=board,
                usb=usb,
            ),
        )

    async def _run_device(self, far: socket.socket) -> None:
        with far:
            await self.speak(far)

    async def _carry(self, topic: OpenTopic, stream: Stream, board: str) -> None:
        try:
            await stream.run()
            error = None
        except StreamLostError as lost:
            error = Error(code=ErrorCode.STREAM_LOST, message=str(lost))
        if self._streams.get(board, None) and self._streams[board].stream is stream:
            del self._streams[board]
            await self._tell_closed(topic, board, error)

    async def _pass_on(self, opened: _Open) -> None:
        """Let the device have all that came before its holder closed the stream."""
        carrying, device = opened.tasks
        await opened.stream.flush(2)
        carrying.cancel()
        await asyncio.wait([carrying])
        await asyncio.wait([device], timeout=2)

    async def _end(self, board: str) -> _Open | None:
        opened = self._streams.pop(board, None)
        if opened is not None:
            for task in opened.tasks:
                task.cancel()
            await asyncio.gather(*opened.tasks, return_exceptions=True)
        return opened

    async def _command(
        self,
        topic: FlashTopic | ResetTopic,
        command: str,
        name: str,
        named: set[str],
        payload: bytes,
    ) -> None:
        if name in self._done:
            return
        self._done.add(name)
        for board, assignment in self._assignments.items():
            if assignment.reservation == topic.reservation and (not named or board in named):
                self.commands.append((command, board, payload))
                if board not in self.deaf:
                    task = asyncio.create_task(self._restart(topic, command, name, board))
                    self._resetting.add(task)
                    task.add_done_callback(self._resetting.discard)

    async def _restart(
        self, topic: FlashTopic | ResetTopic, command: str, name: str, board: str
    ) -> None:
        await self.report(board, DeviceStatus.STARTING)
        await self.close_stream(board)
        await self.report(board, DeviceStatus.READY)
        event = CommandFinished(
            reservation=topic.reservation,
            command=command,
            id=name,
            agent=self.name,
            device=board,
            error=self.errors.get(board),
            seconds=0.1,
        )
        await self._tell(topic, event)

    async def refuse(self, topic: FlashTopic | ResetTopic, error: Error) -> None:
        """Refuse a command for all boards."""
        await self._tell(
            topic,
            CommandRefused(
                reservation=topic.reservation,
                command="flash",
                id=topic.command,
                agent=self.name,
                error=error,
            ),
        )

    async def _tell_closed(self, topic: OpenTopic, board: str, error: Error | None) -> None:
        event = StreamClosed(
            reservation=topic.reservation,
            stream=topic.stream,
            agent=self.name,
            device=board,
            error=error,
        )
        await self._tell(topic, event)

    async def _tell(self, topic: OpenTopic | FlashTopic | ResetTopic, event: Event) -> None:
        try:
            await self.connection.publish(EventsTopic(topic.client, topic.session), event)
        except (NobodyListensError, ConnectionLostError):
            # Its session, or this agent, has ended, and so has the stream that it had.
            return
