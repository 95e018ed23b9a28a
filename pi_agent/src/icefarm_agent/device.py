"""One device: brought to what control assigns, from whatever state it is in.

It works from the latest assignment only, never from having seen each change, so it does not
matter how many came and went while it was busy.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from icefarm_agent.behaviours import ArgumentsError, Behaviour, MeasurementError
from icefarm_agent.board import (
    DEFAULT_FIRMWARE,
    DEFAULT_FIRMWARE_GREETING,
    Board,
    BoardError,
)
from icefarm_agent.console import Console
from icefarm_agent.evaluations import Evaluation, EvaluationQueue
from icefarm_agent.outbox import Outbox
from icefarm_schemas import (
    Assignment,
    DeviceReady,
    DeviceState,
    DeviceStatus,
    DeviceUnbound,
    Error,
    ErrorCode,
    EvaluationFinished,
    Measurement,
    utc_now,
)

log = logging.getLogger(__name__)

NEXT: Mapping[DeviceStatus | None, frozenset[DeviceStatus]] = {
    None: frozenset({DeviceStatus.PREPARING}),
    DeviceStatus.PREPARING: frozenset({DeviceStatus.AVAILABLE, DeviceStatus.BROKEN}),
    DeviceStatus.AVAILABLE: frozenset({DeviceStatus.STARTING}),
    DeviceStatus.STARTING: frozenset({DeviceStatus.READY, DeviceStatus.BROKEN}),
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
        labels: by which it may be chosen.
    """

    def __init__(
        self,
        agent: str,
        board: Board,
        behaviours: Mapping[str, type[Behaviour]],
        report: Callable[[DeviceState], None],
        outbox: Outbox,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = board.name
        self._agent = agent
        self._board = board
        self._behaviours = behaviours
        self._report = report
        self._outbox = outbox
        self._labels = dict(labels or {})
        self._status: DeviceStatus | None = None
        self._wanted: Assignment | None = None
        self._lease_ends = 0.0
        self._changed = asyncio.Event()
        self._serving: Assignment | None = None
        self._queue = EvaluationQueue()

    def assign(self, assignment: Assignment | None, *, retained: bool = False) -> None:
        """What control wants now; None when the device is to be free.

        One that was `retained` is of unknown age.
        """
        before, self._wanted = self._wanted, assignment
        # The same one comes again after each loss of the broker; its lease goes on.
        if assignment is not None and assignment != before:
            if before is None or before.reservation != assignment.reservation:
                self._queue = EvaluationQueue()
            # By this machine's monotonic clock, so that the lease ends even without control.
            self._lease_ends = time.monotonic() + left_of(assignment, retained)
        self._changed.set()

    @property
    def assignment(self) -> Assignment | None:
        """What the device should do now: nothing when the lease is over."""
        return self._wanted if time.monotonic() < self._lease_ends else None

    async def evaluate(self, evaluation: Evaluation) -> None:
        """Queue a bitstream of the reservation that the device is assigned to.

        It waits until the device is ready. One that cannot be queued has its error sent as its
        result; of one that has been measured already, the result is sent again.
        """
        assignment = self._wanted
        if assignment is None:
            raise RuntimeError(f"{self.name} is not assigned, so nobody may evaluate on it")
        before = self._queue.result_of(evaluation)
        if before is not None:
            await self._outbox.put(evaluation.client, evaluation.session, before)
            return
        refusal = (
            Error(code=ErrorCode.DEVICE_LOST, message=f"the board {self.name!r} is broken")
            if self._status is DeviceStatus.BROKEN
            else self._queue.add(evaluation)
        )
        if refusal is not None:
            result = self._result(evaluation, assignment, 0, error=refusal)
            await self._outbox.put(evaluation.client, evaluation.session, result)

    async def run(self) -> None:
        """Follow the assignments until cancelled; then let go of the board."""
        try:
            await self._restore(DeviceStatus.PREPARING)
            while True:
                self._changed.clear()
                assignment = self.assignment
                if self._status is DeviceStatus.BROKEN:
                    await self._stay_broken(assignment)
                elif assignment is None:
                    await self._changed.wait()
                else:
                    await self._serve(assignment)
        finally:
            await self._board.close()

    async def _serve(self, assignment: Assignment) -> None:
        """Be what the holder reserved until the assignment is no longer wanted."""
        self._serving, queue = assignment, self._queue
        self._become(DeviceStatus.STARTING)
        try:
            async with AsyncExitStack() as stack:
                behaviour = self._behaviour(assignment)
                stack.push_async_callback(self._stop, behaviour)
                await behaviour.start()
                self._become(DeviceStatus.READY)
                await self._tell_holder(self._ready())
                await self._work_until_over(behaviour, assignment, queue)
        except (BoardError, ArgumentsError) as error:
            self._become(DeviceStatus.BROKEN, str(error))
        except Exception as error:
            # A behaviour may be a lab's own; its defect is its board's, not the agent's.
            log.exception("%s failed on %s", assignment.behaviour, self.name)
            self._become(DeviceStatus.BROKEN, f"{assignment.behaviour} failed: {error!r}")
        finally:
            self._serving = None
        if self._status is DeviceStatus.BROKEN:
            lost = f"the board {self.name!r} is broken"
            await self._refuse_all(queue, assignment, ErrorCode.DEVICE_LOST, lost)
        elif not _stays_with_holder(assignment, self.assignment):
            over = "the reservation is over"
            await self._refuse_all(queue, assignment, ErrorCode.RESERVATION_ENDED, over)
            await self._restore(DeviceStatus.CLEANING)

    async def _refuse_all(
        self, queue: EvaluationQueue, assignment: Assignment, code: ErrorCode, why: str
    ) -> None:
        for evaluation in queue.drain():
            result = self._result(evaluation, assignment, 0, error=Error(code=code, message=why))
            queue.finish(evaluation, result)
            await self._outbox.put(evaluation.client, evaluation.session, result)

    async def _stop(self, behaviour: Behaviour) -> None:
        await behaviour.stop()
        serving = self._serving
        if serving is not None:
            await self._tell_holder(
                DeviceUnbound(reservation=serving.reservation, agent=self._agent, device=self.name)
            )

    def _ready(self) -> DeviceReady:
        serving = self._serving
        assert serving is not None  # It becomes ready for somebody.
        return DeviceReady(
            reservation=serving.reservation,
            agent=self._agent,
            device=self.name,
            behaviour=serving.behaviour,
        )

    async def _tell_holder(self, event: DeviceReady | DeviceUnbound) -> None:
        # The reservation may belong to another session of the holder's by now.
        holder = self._wanted or self._serving
        if holder is not None and holder.reservation == event.reservation:
            await self._outbox.put(holder.client, holder.session, event)

    def _behaviour(self, assignment: Assignment) -> Behaviour:
        kind = self._behaviours.get(assignment.behaviour)
        if kind is None:
            raise ArgumentsError(f"this agent has no behaviour {assignment.behaviour!r}")
        return kind(self._board, assignment.arguments)

    async def _work_until_over(
        self, behaviour: Behaviour, assignment: Assignment, queue: EvaluationQueue
    ) -> None:
        working = asyncio.create_task(self._work(behaviour, assignment, queue))
        ending = asyncio.create_task(self._until_over(assignment))
        try:
            await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            working.cancel()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

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

    async def _work(
        self, behaviour: Behaviour, assignment: Assignment, queue: EvaluationQueue
    ) -> None:
        """Evaluate what is queued, one after the other; restart a board that does not go on."""
        while True:
            evaluation = await queue.next()
            started = time.monotonic()
            failure: MeasurementError | None = None
            measurement: Measurement | None = None
            try:
                measurement = await behaviour.evaluate(evaluation.bitstream)
            except MeasurementError as error:
                failure = error
            except BaseException:
                # It is measured when the board is ready again, or refused with all that wait.
                queue.put_back(evaluation)
                raise
            result = self._result(
                evaluation,
                assignment,
                time.monotonic() - started,
                measurement=measurement,
                error=None if failure is None else failure.error,
            )
            queue.finish(evaluation, result)
            await self._outbox.put(evaluation.client, evaluation.session, result)
            if failure is not None and not failure.board_is_well:
                log.warning("restarting %s: %s", self.name, failure)
                await behaviour.start()

    def _result(
        self,
        evaluation: Evaluation,
        assignment: Assignment,
        seconds: float,
        *,
        measurement: Measurement | None = None,
        error: Error | None = None,
    ) -> EvaluationFinished:
        return EvaluationFinished(
            reservation=assignment.reservation,
            evaluation=evaluation.id,
            agent=self._agent,
            device=self.name,
            behaviour=assignment.behaviour,
            measurement=measurement,
            error=error,
            seconds=round(seconds, 6),
            finished_at=utc_now(),
        )

    async def _restore(self, status: DeviceStatus) -> None:
        """Bring the board to the state in which everybody finds it."""
        self._become(status)
        try:
            await self._board.install(DEFAULT_FIRMWARE)
            async with Console(self._board.console) as console:
                await console.wait_for(DEFAULT_FIRMWARE_GREETING, self._board.patience)
        except BoardError as error:
            self._become(DeviceStatus.BROKEN, f"its default firmware does not run: {error}")
        except Exception as error:
            # The other boards of this agent go on.
            log.exception("%s cannot be brought to its default firmware", self.name)
            self._become(DeviceStatus.BROKEN, f"it cannot be brought to its firmware: {error!r}")
        else:
            self._become(DeviceStatus.AVAILABLE)

    async def _stay_broken(self, assignment: Assignment | None) -> None:
        """Keep the reason in sight until the holder is gone, or for a while if there is none."""
        if assignment is not None:
            await self._until_over(assignment)
            await self._restore(DeviceStatus.CLEANING)
            return
        try:
            async with asyncio.timeout(_TRY_AGAIN):
                await self._changed.wait()
        except TimeoutError:
            await self._restore(DeviceStatus.PREPARING)

    def _become(self, status: DeviceStatus, detail: str | None = None) -> None:
        if status not in NEXT[self._status]:
            raise AssertionError(f"{self.name} cannot go from {self._status} to {status}")
        self._status = status
        serving = self._serving
        if detail is not None:
            log.error("%s is %s: %s", self.name, status, detail)
        self._report(
            DeviceState(
                status=status,
                product=self._board.product,
                behaviours=tuple(self._behaviours),
                labels=self._labels,
                behaviour=serving and serving.behaviour,
                reservation=serving and serving.reservation,
                detail=detail,
                since=utc_now(),
            )
        )


def left_of(assignment: Assignment, retained: bool) -> float:
    """Seconds that a lease has left; by this machine's wall clock only where that can be right."""
    length = (assignment.expires_at - assignment.granted_at).total_seconds()
    left = (assignment.expires_at - utc_now()).total_seconds()
    if 0 < left <= length:
        return left
    # The clock is wrong, or the lease is over; of the former, one that comes just now is a sign.
    return min(left, length) if retained else length


def _is_same_work(one: Assignment, other: Assignment) -> bool:
    """Whether a device that does the one does the other too; the lease may be longer."""
    return (one.reservation, one.behaviour, one.arguments) == (
        other.reservation,
        other.behaviour,
        other.arguments,
    )


def _stays_with_holder(before: Assignment, now: Assignment | None) -> bool:
    """Whether a device that does something else now does it for the same reservation."""
    return now is not None and now.reservation == before.reservation
