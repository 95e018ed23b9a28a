"""Usage over a period, up to the minute: read once a minute, however many pages show it."""

import asyncio
from datetime import datetime, timedelta

from icefarm_control.web import queries
from icefarm_control.web.reading import Reading
from icefarm_control.web.views import UsageReport
from icefarm_schemas import utc_now


class UsageReports:
    """The latest report of each period."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._latest: dict[timedelta, UsageReport] = {}
        self._turn = asyncio.Lock()

    async def of_last(self, period: timedelta) -> UsageReport:
        """Usage from `period` ago until the end of this minute.

        Raises:
            DatabaseAwayError: the database does not answer.
        """
        async with self._turn:
            until = _end_of_minute(utc_now())
            known = self._latest.get(period)
            if known is None or known.until != until:
                known = await queries.usage(self._reading, until - period, until)
                self._latest[period] = known
            return known


def _end_of_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0) + timedelta(minutes=1)
