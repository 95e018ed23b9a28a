"""One device: brought to what control assigns, from whatever state it is in.

It works from the latest assignment only, never from having seen each change, so it does not
matter how many came and went while it was busy.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars

from icefarm_agent.behaviours import ArgumentsError, Behaviour
from icefarm_agent.board import Board, BoardError, FirmwareError
from icefarm_agent.commands import Command
from icefarm_agent.deadlines import seconds_left
from icefarm_agent.default_firmware import install_default
from icefarm_agent.evaluations import Evaluation
from icefarm_agent.metrics import BOARDS, REPAIRS
from icefarm_agent.outbox import Outbox
from icefarm_agent.serving import Serving
from icefarm_agent.streams import DeviceStream, StreamCutError, StreamRequest
from icefarm_agent.work import Work
from icefarm_schemas import (
    Assignment,
    DeviceReady,
    DeviceState,
    DeviceStatus,
    DeviceUnbound,
    Error,
    ErrorCode,
    utc_now,
)

log = logging.getLogger(__name__)

NEXT: Mapping[DeviceStatus | None, frozenset[DeviceStatus]] = {
    None: frozenset({DeviceStatus.PREPARING}),
    DeviceStatus.PREPARING: frozenset({DeviceStatus.AVAILABLE, DeviceStatus.BROKEN}),
    # Back to preparing: the board was found in another state than it was left in.
    DeviceStatus.AVAILABLE: frozenset({DeviceStatus.STARTING, DeviceStatus.PREPARING}),
    # What it starts to do may be changed, or given up, before it is ready.
    DeviceStatus.STARTING: frozenset(
        {DeviceStatus.READY, DeviceStatus.STARTING, DeviceStatus.CLEANING, DeviceStatus.BROKEN}
    ),
    # From ready to starting: its holder changes what it does.
    DeviceStatus.READY: frozenset(
        {DeviceStatus.STARTING, DeviceStatus.CLEANING, DeviceStatus.BROKEN}
    ),
    DeviceStatus.CLEANING: frozenset({DeviceStatus.AVAILABLE, DeviceStatus.BROKEN}),
    DeviceStatus.BROKEN: frozenset({DeviceStatus.CLEANING, DeviceStatus.PREPARING}),
}
"""Which status may follow which."""

_TRY_AGAIN = 60.0
"""Seconds after which a broken board that nobody holds is tried again."""


class Device:
    """A board, what it should do and what it does.

    Args:
        board: the hardware, or what stands for it.
        behaviours: what it can be assigned to do, by name.
        report: called with each new state.
        outbox: takes the results.
        stream: makes its stream, given what to call when that is opened or ends.
        labels: by which it may be chosen, besides the board's own.
    """

    def __init__(
        self,
        agent: str,
        board: Board,
        behaviours: Mapping[str, type[Behaviour]],
        report: Callable[[DeviceState], None],
        outbox: Outbox,
        stream: Callable[[Callable[[], None]], DeviceStream],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = board.name
        self._agent = agent
        self._board = board
        self._behaviours = {n: kind for n, kind in behaviours.items() if kind.suits(board)}
        self._report = report
        self._outbox = outbox
        self._labels = {**(labels or {}), **board.labels}
        self._status: DeviceStatus | None = None
        self._detail: str | None = None
        self._since = utc_now()
        self._wanted: Assignment | None = None
        self._lease_ends = 0.0
        self._changed = asyncio.Event()
        self._serving: Assignment | None = None
        self._work: Work | None = None
        self._now: Serving | None = None
        self._repairs = 0
        self._restart = asyncio.Event()
        self._doing: set[asyncio.Task[None]] = set()
        self.stream = stream(self._stream_changed)

    def assign(self, assignment: Assignment | None, *, retained: bool = False) -> None:
        """What control wants now; None when the device is to be free.

        One that was `retained` is of unknown age.
        """
        before, self._wanted = self._wanted, assignment
        # The same one comes again after each loss of the broker; its lease goes on.
        if assignment is not None and assignment != before:
            if before is None or before.reservation != assignment.reservation:
                self._work = Work(
                    self._agent,
                    self.name,
                    assignment.reservation,
                    assignment.behaviour,
                    self._outbox,
                )
            # By this machine's monotonic clock, so that the lease ends even without control.
            self._lease_ends = time.monotonic() + left_of(assignment, retained)
        self._changed.set()

    @property
    def board(self) -> Board:
        """The hardware, or what stands for it."""
        return self._board

    def restart(self) -> None:
        """Start anew in what it does, as soon as it does something; for an operator."""
        self._restart.set()

    @property
    def assignment(self) -> Assignment | None:
        """What the device should do now: nothing when the lease is over."""
        return self._wanted if time.monotonic() < self._lease_ends else None

    async def evaluate(self, evaluation: Evaluation) -> None:
        """Queue a bitstream of the reservation that the device is assigned to.

        It waits until the device is ready. One that cannot be queued has its error sent as its
        result; of one that has been measured already, the result is sent again.
        """
        await self._asked_of().take_evaluation(evaluation, self._refusal())

    async def command(self, command: Command) -> None:
        """Queue a command of the holder's likewise."""
        await self._asked_of().take_command(command, self._refusal() or self._fault_of(command))

    async def open_stream(self, request: StreamRequest) -> None:
        """Open a stream of the holder's, whose events tell how that goes."""
        now = self._now
        if now is None or self._status is not DeviceStatus.READY:
            why = f"the board {self.name!r} is not ready now; try again when it is"
            await self.stream.refuse(request, Error(code=ErrorCode.STREAM_LOST, message=why))
        else:
            self._later(self.stream.open(request, now.behaviour))

    async def close_stream(self, request: StreamRequest) -> None:
        """End a stream of the holder's, if it is that one."""
        self._later(self.stream.close(request))

    def end_stream_of(self, client: str, session: str, why: str) -> None:
        """End the stream if it is this session's."""
        request = self.stream.request
        if request is not None and (request.client, request.session) == (client, session):
            gone = StreamCutError(ErrorCode.STREAM_LOST, why)
            self._later(self.stream.cut(gone, request))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        # A kernel may take a moment to let go of a device; other commands need not wait for it.
        task = asyncio.create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    def _asked_of(self) -> Work:
        if self._wanted is None or self._work is None:
            raise RuntimeError(f"{self.name} is not assigned, so nobody may use it")
        return self._work

    def _refusal(self) -> Error | None:
        broken = self._status is DeviceStatus.BROKEN
        return _lost(f"the board {self.name!r} is broken") if broken else None

    def _fault_of(self, command: Command) -> Error | None:
        if command.image is None:
            return None
        try:
            self._board.check_firmware(command.image)
        except FirmwareError as error:
            return Error(code=ErrorCode.INVALID_FIRMWARE, message=str(error))
        return None

    async def run(self) -> None:
        """Follow the assignments until cancelled; then let go of the board."""
        # On every line that is logged for it, in whatever module; this task is the device's own.
        bind_contextvars(device=self.name)
        try:
            await self._restore(DeviceStatus.PREPARING)
            while True:
                self._changed.clear()
                assignment = self.assignment
                if self._status is DeviceStatus.BROKEN:
                    await self._stay_broken(assignment)
                elif assignment is None:
                    await self._stay_available()
                else:
                    with bound_contextvars(reservation=assignment.reservation):
                        await self._serve(assignment)
        finally:
            self._count(-1)
            await self._board.close()

    async def _serve(self, assignment: Assignment) -> None:
        """Be what the holder reserved until the assignment is no longer wanted."""
        self._serving, work, broken = assignment, self._work, None
        assert work is not None  # Each assignment comes with it.
        self._become(DeviceStatus.STARTING)
        over = asyncio.create_task(self._until_over(assignment))
        try:
            await self._begin(assignment, work).run(over)
        except (BoardError, ArgumentsError) as error:
            broken = str(error)
        except Exception as error:
            # A behaviour may be a lab's own; its defect is its board's, not the agent's.
            log.exception("%s failed on %s", assignment.behaviour, self.name)
            broken = f"{assignment.behaviour} failed: {error!r}"
        finally:
            self._now = None
            over.cancel()
            await asyncio.wait([over])
        if broken is not None:
            self._become(DeviceStatus.BROKEN, broken)
            self._serving = None
            await work.refuse_all(_lost(f"the board {self.name!r} is broken: {broken}"))
            return
        self._serving = None
        if not _stays_with_holder(assignment, self.assignment):
            await work.refuse_all(_OVER)
            await self._restore(DeviceStatus.CLEANING)

    def _begin(self, assignment: Assignment, work: Work) -> Serving:
        kind = self._behaviours.get(assignment.behaviour)
        if kind is None:
            raise ArgumentsError(f"{self.name} has no behaviour {assignment.behaviour!r}")
        self._now = Serving(
            agent=self._agent,
            board=self._board,
            behaviour=kind(self._board, assignment.arguments),
            assignment=assignment,
            work=work,
            stream=self.stream,
            become=self._become,
            tell=self._tell_holder,
            repaired=self._repaired,
            restart=self._restart,
        )
        work.behaviour = assignment.behaviour
        return self._now

    def _repaired(self, fault: str) -> None:
        self._repairs += 1
        REPAIRS.inc()
        log.warning("%s was not as it should be, and is put right: %s", self.name, fault)

    async def _tell_holder(self, event: DeviceReady | DeviceUnbound) -> None:
        # The reservation may belong to another session of the holder's by now.
        holder = self._wanted or self._serving
        if holder is not None and holder.reservation == event.reservation:
            await self._outbox.put(holder.client, holder.session, event)

    async def _until_over(self, assignment: Assignment) -> None:
        while True:
            self._changed.clear()
            wanted = self.assignment
            if wanted is None or not _is_same_work(wanted, assignment):
                return
            try:
                async with asyncio.timeout(max(self._lease_ends - time.monotonic(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                log.info("the lease of %s on %s is over", wanted.reservation, self.name)

    async def _restore(self, status: DeviceStatus) -> None:
        """Bring the board to the state in which everybody finds it."""
        self._restart.clear()
        self._become(status)
        try:
            await install_default(self._board)
        except BoardError as error:
            self._become(DeviceStatus.BROKEN, f"its default firmware does not run: {error}")
        except Exception as error:
            # The other boards of this agent go on.
            log.exception("%s cannot be brought to its default firmware", self.name)
            self._become(DeviceStatus.BROKEN, f"it cannot be brought to its firmware: {error!r}")
        else:
            self._become(DeviceStatus.AVAILABLE)

    async def _stay_available(self) -> None:
        """Wait for an assignment, and see that the board is still fit for one."""
        changed = asyncio.create_task(self._changed.wait())
        watching = asyncio.create_task(self._board.watch())
        restart = asyncio.create_task(self._restart.wait())
        tasks: list[asyncio.Task[Any]] = [changed, watching, restart]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and not changed.done():
                self._repaired(watching.result())
            if not changed.done():
                await self._restore(DeviceStatus.PREPARING)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _stay_broken(self, assignment: Assignment | None) -> None:
        """Keep the reason in sight until the holder is gone, or for a while if there is none."""
        if assignment is not None:
            await self._until_over(assignment)
            await self._restore(DeviceStatus.CLEANING)
            return
        changed = asyncio.create_task(self._changed.wait())
        replugged = asyncio.create_task(self._board.replugged())
        restart = asyncio.create_task(self._restart.wait())
        tasks: list[asyncio.Task[Any]] = [changed, replugged, restart]
        try:
            await asyncio.wait(tasks, timeout=_TRY_AGAIN, return_when=asyncio.FIRST_COMPLETED)
            if not changed.done():
                await self._restore(DeviceStatus.PREPARING)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _become(self, status: DeviceStatus, detail: str | None = None) -> None:
        if status not in NEXT[self._status]:
            raise AssertionError(f"{self.name} cannot go from {self._status} to {status}")
        self._count(-1)
        self._status, self._detail, self._since = status, detail, utc_now()
        self._count(+1)
        if detail is not None:
            log.error("%s is %s: %s", self.name, status, detail)
        self._tell_state()

    def _count(self, by: int) -> None:
        if self._status is not None:
            BOARDS.labels(self._status).inc(by)

    def _stream_changed(self) -> None:
        if self._status is not None:
            self._tell_state()

    def _tell_state(self) -> None:
        serving, status = self._serving, self._status
        assert status is not None  # There is nothing to tell before the first one.
        self._report(
            DeviceState(
                status=status,
                product=self._board.product,
                behaviours=tuple(self._behaviours),
                labels=self._labels,
                behaviour=serving and serving.behaviour,
                reservation=serving and serving.reservation,
                generation=serving and serving.generation,
                in_use=self.stream.is_open,
                repairs=self._repairs,
                port=None if self._board.port is None else self._board.port.busid,
                detail=self._detail,
                since=self._since,
            )
        )


_OVER = Error(code=ErrorCode.RESERVATION_ENDED, message="the reservation is over")


def _lost(why: str) -> Error:
    return Error(code=ErrorCode.DEVICE_LOST, message=why)


def left_of(assignment: Assignment, retained: bool) -> float:
    """Seconds that a lease has left; one that was `retained` is of unknown age."""
    return seconds_left(assignment.granted_at, assignment.expires_at, retained=retained)


def _is_same_work(one: Assignment, other: Assignment) -> bool:
    """Whether a device that does the one does the other too; the lease may be longer."""
    return (one.reservation, one.generation, one.behaviour, one.arguments) == (
        other.reservation,
        other.generation,
        other.behaviour,
        other.arguments,
    )


def _stays_with_holder(before: Assignment, now: Assignment | None) -> bool:
    """Whether a device that does something else now does it for the same reservation."""
    return now is not None and now.reservation == before.reservation
