"""Whether this control process can do its work: found out by asking, every second.

A connection that looks open may lead to somebody who does not answer. So the broker and the
database are asked something, and count as away when they have not answered for a while.
"""

import asyncio
import logging
import time

import psycopg

from icefarm_broker import ConnectionLostError
from icefarm_control.database import connect
from icefarm_control.leadership import somebody_leads
from icefarm_control.metrics import BROKER, BROKER_SECONDS, DATABASE_SECONDS, FARM

_PAUSE = 1.0
"""Seconds between two questions."""
_PATIENCE = 5.0
"""Seconds without an answer after which nobody is there."""
_COUNT_EACH = 5.0
"""Seconds between two counts of what there is on the farm."""

log = logging.getLogger(__name__)


class Answers:
    """When somebody answered last, or what he said instead."""

    def __init__(self) -> None:
        self._why = "not reached yet"
        self._last: float | None = None

    def came(self) -> None:
        """An answer."""
        self._last = time.monotonic()

    def failed(self, why: str) -> None:
        """There is nobody to ask."""
        self._why, self._last = " ".join(why.split()), None

    @property
    def fault(self) -> str | None:
        """What is wrong, if anything."""
        if self._last is None:
            return self._why
        age = time.monotonic() - self._last
        return f"no answer for {age:.0f} s" if age > _PATIENCE else None


class Health:
    """What is known of one control process, from its start on."""

    def __init__(self) -> None:
        self._answers = {"broker": Answers(), "database": Answers()}
        self._leader = Answers()

    @property
    def leads(self) -> bool:
        """Whether this process does."""
        return "leader" in BROKER.connections

    def faults(self) -> dict[str, str]:
        """What keeps this process from its work, by what is at fault; nothing when it is ready."""
        answers = self._answers | {"leader": self._leader}
        found = {name: one.fault for name, one in answers.items()}
        if "database" in self._faulty(found):
            # Who leads is asked there.
            found["leader"] = "not known while the database does not answer"
        return {name: why for name, why in found.items() if why is not None}

    @staticmethod
    def _faulty(found: dict[str, str | None]) -> set[str]:
        return {name for name, why in found.items() if why is not None}

    def in_words(self) -> str:
        """For whoever looks at one process."""
        faults = self.faults()
        role = "leads" if self.leads else "follows"
        if not faults:
            return f"ready; {role}"
        return f"not ready ({role}): " + "; ".join(f"{name}: {why}" for name, why in faults.items())

    async def watch(self, url: str) -> None:
        """Ask the broker and the database at `url`, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_broker())
            tasks.create_task(self._ask_database(url))

    async def _ask_broker(self) -> None:
        answers = self._answers["broker"]
        while True:
            try:
                # The leader's too, if this one leads: without it, nobody is told of anything.
                for connection in list(BROKER.connections.values()):
                    BROKER_SECONDS.observe(await connection.round_trip())
                if BROKER.connections:
                    answers.came()
            except ConnectionLostError as error:
                answers.failed(str(error))
            await asyncio.sleep(_PAUSE)

    async def _ask_database(self, url: str) -> None:
        answers = self._answers["database"]
        while True:
            try:
                async with await connect(url) as connection:
                    await self._ask_on(connection, answers)
            except psycopg.Error as error:
                answers.failed(str(error))
                FARM.take(None)
            await asyncio.sleep(_PAUSE)

    async def _ask_on(
        self, connection: psycopg.AsyncConnection[dict[str, object]], answers: Answers
    ) -> None:
        count_at = 0.0
        while True:
            asked = time.monotonic()
            leads = await somebody_leads(connection)
            DATABASE_SECONDS.observe(time.monotonic() - asked)
            answers.came()
            if leads:
                self._leader.came()
            else:
                self._leader.failed("no control process leads")
            if not self.leads:
                FARM.take(None)
            elif time.monotonic() >= count_at:
                count_at = time.monotonic() + _COUNT_EACH
                FARM.take(await (await connection.execute(FARM.QUERY)).fetchall())
            await asyncio.sleep(_PAUSE)
