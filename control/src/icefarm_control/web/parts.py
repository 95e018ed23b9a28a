"""The dashboard as control runs it: its connections, opened and closed with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from icefarm_broker import BrokerAddress
from icefarm_broker.http import serve
from icefarm_control.database import Database
from icefarm_control.health import Health
from icefarm_control.observing import observing_router
from icefarm_control.web.accounts import Accounts
from icefarm_control.web.acting import Operating
from icefarm_control.web.app import make_app
from icefarm_control.web.changes import Changes
from icefarm_control.web.reading import Reading
from icefarm_control.web.seen import Seen
from icefarm_control.web.sessions import SessionKey
from icefarm_control.web.state import Web
from icefarm_control.web.usage import UsageReports


async def serve_dashboard(
    place: tuple[str, int],
    url: str,
    address: BrokerAddress,
    health: Health,
    seen: Seen,
    changes: Changes,
) -> None:
    """Serve it at a host and a port for ever, and how this process is."""
    async with _dashboard(url, address, seen, changes) as app:
        app.include_router(observing_router(health))
        try:
            await serve(app, *place, "the dashboard is", "--web")
        finally:
            # Pages that are open wait for changes, and would keep the server from its end.
            changes.end()


@asynccontextmanager
async def _dashboard(
    url: str, address: BrokerAddress, seen: Seen, changes: Changes
) -> AsyncIterator[FastAPI]:
    """The application, as long as the block; `url` is the database's, which need not be there."""
    reading = Reading(url, changes)
    database, key = Database(url), SessionKey()
    operating = Operating(database, changes)

    async def open_database() -> None:
        await database.open()
        await key.read(database)
        operating.begin()

    web = Web(reading, UsageReports(reading), changes, seen, Accounts(address), operating, key)
    async with reading.open(), asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(changes.listen(url)), tasks.create_task(open_database())]
        try:
            yield make_app(web)
        finally:
            for task in working:
                task.cancel()
            await database.close()
