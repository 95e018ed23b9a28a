"""An agent that drains: its devices are given to nobody, and who holds one has time to be done.

An operator asks for it, by what control retains at the broker, or a signal does. After a signal,
or where an operator wants a restart, the process ends when nobody holds a device any more, or
when the time is over; else it stays until the operator lets it go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from icefarm_agent.deadlines import seconds_left
from icefarm_broker.service import EXIT_RESTART
from icefarm_schemas import AgentWish, utc_now

_SETTLING = 1.0
"""Seconds for which assignments may still come that were made before control knew."""
_LOOK_AGAIN = 0.5
"""Seconds; leases end without a word."""

log = logging.getLogger(__name__)


class DrainedError(Exception):
    """The process is to end now, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"drained; the exit code is {code}")
        self.code = code


@dataclass(frozen=True)
class Drain:
    """Until when, by the wall clock for others and by the monotonic one; and what comes then.

    Without an `exit_code`, the process stays.
    """

    until: datetime
    ends: float
    exit_code: int | None

    @classmethod
    def lasting(cls, seconds: float, exit_code: int | None) -> "Drain":
        """From now on."""
        return cls(utc_now() + timedelta(seconds=seconds), time.monotonic() + seconds, exit_code)


class Draining:
    """Whether an agent drains, and why.

    Args:
        boot_id: of this process; that another one is to be restarted says nothing to it.
        is_idle: whether nobody holds a device.
        changed: called when `now` is another one, or when control should hear of it again.
    """

    def __init__(
        self, boot_id: str, is_idle: Callable[[], bool], changed: Callable[[], None]
    ) -> None:
        self._boot_id, self._is_idle, self._tell = boot_id, is_idle, changed
        self._wish: AgentWish | None = None
        self._by_operator: Drain | None = None
        self._by_signal: Drain | None = None
        self._changed = asyncio.Event()

    @property
    def now(self) -> Drain | None:
        """That of the signal before that of an operator; None when the agent does not drain."""
        return self._by_signal or self._by_operator

    def end_after(self, seconds: float) -> None:
        """Drain for so long at most, and let the process end."""
        self._by_signal = Drain.lasting(seconds, 0)
        self._note()

    def follow(self, wish: AgentWish | None, *, retained: bool) -> None:
        """Do what an operator wants; the same wish comes again after each loss of the broker."""
        if wish is not None and wish.restart not in (None, self._boot_id):
            wish = None
        if wish is None and self._wish is None:
            return
        if wish != self._wish:
            self._wish, self._by_operator = wish, None
            if wish is not None:
                left = seconds_left(wish.asked_at, wish.drains_until, retained=retained)
                code = None if wish.restart is None else EXIT_RESTART
                self._by_operator = Drain.lasting(max(left, 0), code)
                log.info("an operator drains this agent for at most %.0f s", left)
            else:
                log.info("an operator lets this agent go on")
        self._note()

    def look(self) -> None:
        """A device may have become free."""
        self._changed.set()

    def _note(self) -> None:
        self._changed.set()
        self._tell()

    async def run(self) -> None:
        """Wait for the end, for ever if need be.

        Raises:
            DrainedError: the process is to end.
        """
        while True:
            drain = self.now
            if drain is None or drain.exit_code is None:
                await self._wait(None)
                continue
            settled = time.monotonic() + _SETTLING
            while drain is self.now:
                moment = time.monotonic()
                if moment >= drain.ends or (moment >= settled and self._is_idle()):
                    raise DrainedError(drain.exit_code)
                await self._wait(min(drain.ends - moment, _LOOK_AGAIN))

    async def _wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()
