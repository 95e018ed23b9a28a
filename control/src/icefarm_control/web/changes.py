"""Telling open pages that what they show may have changed, and how the database is."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg

from icefarm_control.database import connect
from icefarm_control.leadership import CHANGED, CHANNEL
from icefarm_schemas import utc_now

_BEAT = 2.0
"""Seconds between looks at whether the database is still there."""
_PAUSE = 0.5

About = tuple[str, ...]
"""Something that only some pages show, such as the log lines about one board."""


class Changes:
    """Tells those who wait that the farm may look different now.

    `database_away` says since when the database has not answered, `why_away` what it said.
    """

    def __init__(self) -> None:
        self.database_away: datetime | None = None
        self.why_away = ""
        self.is_over = False
        self._pages: dict[asyncio.Event, Collection[About]] = {}

    def tell(self, about: Collection[About] | None = None) -> None:
        """Something has changed: for all pages, or only for those that show one of these."""
        for woken, shown in self._pages.items():
            if about is None or any(each in shown for each in about):
                woken.set()

    @contextmanager
    def woken(self, shown: Collection[About]) -> Iterator[asyncio.Event]:
        """An event that is set at each change for a page, which may show `shown` besides."""
        event = asyncio.Event()
        self._pages[event] = shown
        try:
            yield event
        finally:
            del self._pages[event]

    def end(self) -> None:
        """Nothing will change any more: who waits is to go."""
        self.is_over = True
        self.tell()

    def lose(self, why: str) -> None:
        """The database does not answer."""
        if self.database_away is None:
            self.database_away, self.why_away = utc_now(), why
            self.tell()

    async def listen(self, url: str) -> None:
        """Hear from the database, for ever."""
        while True:
            try:
                connection = await connect(url)
                try:
                    await connection.execute(f"LISTEN {CHANGED}")
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.database_away = None
                    # What was told meanwhile was not heard.
                    self.tell()
                    while True:
                        async for _ in connection.notifies(timeout=_BEAT, stop_after=1):
                            self.tell()
                        await connection.execute("SELECT")
                        # A page may have waited for it too long, or come before its tables.
                        if self.database_away is not None:
                            self.database_away = None
                            self.tell()
                finally:
                    await connection.close()
            except psycopg.Error as error:
                self.lose(first_line(error))
            await asyncio.sleep(_PAUSE)


def first_line(error: Exception) -> str:
    """What an error says, without where in a statement."""
    return str(error).partition("\n")[0]
