"""The dashboard as control runs it: its connections, opened and closed with it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from icefarm_broker import BrokerAddress
from icefarm_control.web.accounts import Accounts
from icefarm_control.web.acting import Operating
from icefarm_control.web.app import make_app
from icefarm_control.web.reading import Changes, Reading
from icefarm_control.web.seen import Seen
from icefarm_control.web.state import Web


@asynccontextmanager
async def dashboard(
    url: str, address: BrokerAddress, seen: Seen, changes: Changes
) -> AsyncIterator[FastAPI]:
    """The application, as long as the block; `url` is the database's, which need not be there."""
    reading = Reading(url, changes)
    operating = Operating(url, changes)
    # Logins last as long as the process.
    web = Web(reading, changes, seen, Accounts(address), operating, secrets.token_urlsafe(32))
    async with reading.open(), asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(changes.listen(url)), tasks.create_task(operating.open())]
        try:
            yield make_app(web)
        finally:
            for task in working:
                task.cancel()
            await operating.close()
