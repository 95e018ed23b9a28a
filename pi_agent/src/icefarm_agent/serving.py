"""One device doing what one assignment asks, from its start to its end.

Whatever interrupts it - a command of the holder's, a hanging board, a device that somebody else
has bound - is dealt with in the same way: let go of the board, put it right, start again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from icefarm_agent.behaviours import Behaviour, MeasurementError, Measures
from icefarm_agent.board import Board, BoardError
from icefarm_agent.commands import Command
from icefarm_agent.streams import DeviceStream, StreamCutError
from icefarm_agent.work import Work
from icefarm_schemas import (
    Assignment,
    DeviceReady,
    DeviceStatus,
    DeviceUnbound,
    ErrorCode,
    Measurement,
)

_MOST_REPAIRS, _SOON = 10, 30.0
"""So many within so many seconds, and the board is broken."""

log = logging.getLogger(__name__)


class Over(Exception):  # It is no error that an assignment ends.
    """The assignment is not wanted any more."""


@dataclass
class Serving:
    """See the module.

    `become` is called with each status, `tell` with what its holder should know, and `repaired`
    when the board was not as it should be. `restart` is set when an operator wants it started anew.
    """

    agent: str
    board: Board
    behaviour: Behaviour
    assignment: Assignment
    work: Work
    stream: DeviceStream
    become: Callable[[DeviceStatus], None]
    tell: Callable[[DeviceReady | DeviceUnbound], Coroutine[Any, Any, None]]
    repaired: Callable[[str], None]
    restart: asyncio.Event
    _repairs: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_REPAIRS))

    async def run(self, over: asyncio.Task[None]) -> None:
        """Serve until `over` is done.

        Raises:
            BoardError: the board cannot do it.
        """
        try:
            await self._unless(over, self._start())
            while True:
                self.become(DeviceStatus.READY)
                await self.tell(self._ready())
                interruption = await self._unless(over, self._until_interrupted())
                self.become(DeviceStatus.STARTING)
                await self._unless(over, self._deal_with(interruption))
        except Over:
            log.debug("%s is done with %s", self.board.name, self.assignment.reservation)
        finally:
            await self._let_go("the board is not assigned to this any more")
            await self.tell(self._unbound())

    def _ready(self) -> DeviceReady:
        return DeviceReady(
            reservation=self.assignment.reservation,
            agent=self.agent,
            device=self.board.name,
            behaviour=self.assignment.behaviour,
        )

    def _unbound(self) -> DeviceUnbound:
        return DeviceUnbound(
            reservation=self.assignment.reservation, agent=self.agent, device=self.board.name
        )

    async def _unless(self, over: asyncio.Task[None], work: Coroutine[Any, Any, Any]) -> Any:
        """Do some work, which is dropped when the assignment ends before it is done."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait([working, over], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Over
            return working.result()
        finally:
            working.cancel()
            await asyncio.wait([working])

    async def _start(self) -> None:
        await self._install()
        try:
            await self.behaviour.start()
        except BoardError as error:
            if self.work.firmware is None and self.behaviour.firmware is None:
                raise
            log.warning("%s gets its firmware once more: %s", self.board.name, error)
            await self.behaviour.stop()
            await self._install()
            await self.behaviour.start()

    async def _install(self) -> None:
        if self.work.firmware is not None:
            await self.board.write_firmware(self.work.firmware)
        elif self.behaviour.firmware is not None:
            await self.board.install(self.behaviour.firmware)

    async def _let_go(self, why: str) -> None:
        await self.stream.cut(StreamCutError(ErrorCode.STREAM_LOST, why))
        await self.behaviour.stop()

    async def _until_interrupted(self) -> Command | str | None:
        """Work, until a command comes or something is wrong with the board, which is said.

        None when an operator wants the board started anew.
        """
        watching: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.work.commands.next()),
            asyncio.create_task(self._measure()),
            asyncio.create_task(self.behaviour.watch()),
            asyncio.create_task(self._restarted()),
        ]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            interruption: Command | str | None = next(t for t in watching if t in done).result()
            return interruption
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    async def _restarted(self) -> None:
        await self.restart.wait()

    async def _deal_with(self, interruption: Command | str | None) -> None:
        self.restart.clear()
        if interruption is None:
            log.info("an operator has %s started anew", self.board.name)
            await self._let_go("an operator restarts the board")
            await self.board.recover()
            await self._start()
            return
        if isinstance(interruption, str):
            self.repaired(interruption)
            self._repairs.append(time.monotonic())
            if len(self._repairs) == _MOST_REPAIRS and self._repairs[-1] - self._repairs[0] < _SOON:
                raise BoardError(f"it has to be put right again and again: {interruption}")
            await self._let_go(f"the board is being restarted: {interruption}")
            await self.board.recover()
            await self._start()
            return
        started = time.monotonic()
        await self._let_go(f"the holder's {interruption.name} restarts the board")
        if interruption.image is not None:
            self.work.firmware = interruption.image
        await self._start()
        await self.work.carried_out(interruption, None, time.monotonic() - started)

    async def _measure(self) -> str:
        """Evaluate what is queued, one after the other, until the board does not go on."""
        queue = self.work.evaluations
        while True:
            evaluation = await queue.next()
            started = time.monotonic()
            failure: MeasurementError | None = None
            measurement: Measurement | None = None
            try:
                measurement = await self._evaluate(evaluation.bitstream)
            except MeasurementError as error:
                failure = error
            # Whatever else ends it, it is still the next one when the board is ready again.
            await self.work.evaluated(
                evaluation,
                measurement,
                None if failure is None else failure.error,
                time.monotonic() - started,
            )
            if failure is not None and not failure.board_is_well:
                return str(failure)

    async def _evaluate(self, bitstream: bytes) -> Measurement:
        if not isinstance(self.behaviour, Measures):
            raise MeasurementError(
                ErrorCode.NOT_SUPPORTED,
                f"{self.assignment.behaviour!r} measures no bitstreams; change the behaviour of "
                f"{self.board.name!r} first",
            )
        return await self.behaviour.evaluate(bitstream)
