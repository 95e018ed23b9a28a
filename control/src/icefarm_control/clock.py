"""Whether the wall clock of the database, by which leases end, was set."""

import time
from datetime import datetime

from icefarm_control.database import Cursor, Database, all_rows

_TOLERATED = 2.0
"""Seconds that the wall clock and the monotonic one may differ between two looks."""


async def database_time(cursor: Cursor) -> datetime:
    """The database's wall clock, now."""
    [row] = await all_rows(cursor, "SELECT clock_timestamp() AS now", {})
    now: datetime = row["now"]
    return now


class Clock:
    """Compares the database's clock with this process' monotonic one."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._inexact = 0.0
        """Seconds that the last look may be wrong: somewhere in that time the database looked."""

    async def check(self, database: Database) -> float:
        """Move all times if the clock was set since the last look; by how many seconds, or 0.

        A machine that slept did not set its clock, but it cannot be told apart: leases that were
        under way then last as long as the sleep did longer.
        """

        async def work(cursor: Cursor) -> tuple[float, float, float, float]:
            before = time.monotonic()
            [row] = await all_rows(
                cursor, "SELECT extract(epoch FROM clock_timestamp())::float AS now", {}
            )
            after = time.monotonic()
            here, inexact = (before + after) / 2, (after - before) / 2
            there: float = row["now"]
            jumped = 0.0
            if self._last is not None:
                jumped = (there - self._last[0]) - (here - self._last[1])
            if abs(jumped) <= _TOLERATED + inexact + self._inexact:
                return there, here, inexact, 0.0
            await all_rows(
                cursor, "SELECT move_times(make_interval(secs => %(by)s))", {"by": jumped}
            )
            return there, here, inexact, jumped

        there, here, self._inexact, jumped = await database.transaction(work)
        self._last = (there, here)
        return jumped
