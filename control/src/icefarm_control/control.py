"""One control process: it answers requests, and leads when no other one does."""

import asyncio
import logging

from fastapi import FastAPI

from icefarm_broker import BrokerAddress, TakenOverError
from icefarm_broker.http import served
from icefarm_control.database import Database
from icefarm_control.health import Health
from icefarm_control.leader import Leader
from icefarm_control.leadership import Leadership, LeadershipLostError
from icefarm_control.observing import observing_router
from icefarm_control.requests import Requests

_PAUSE = 0.5
"""Seconds after the leadership was lost."""

log = logging.getLogger(__name__)


async def run_control(
    url: str, address: BrokerAddress, health: Health, web: tuple[str, int] | None = None
) -> None:
    """Work for ever, sharing the work with all others on the database at `url`.

    With `web`, a host and a port, how this process is can be seen there, also while it cannot work.
    """
    app = FastAPI(openapi_url=None)
    app.include_router(observing_router(health))
    async with served(app, web, "the dashboard is"), asyncio.TaskGroup() as tasks:
        tasks.create_task(health.watch(url))
        tasks.create_task(_control(url, address))


async def _control(url: str, address: BrokerAddress) -> None:
    answering, reading, leading = databases = [Database(url) for _ in range(3)]
    try:
        for database in databases:
            await database.open()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Requests(answering, reading, address).run())
            tasks.create_task(_lead(leading, url, address))
    finally:
        for database in databases:
            await database.close()


async def _lead(database: Database, url: str, address: BrokerAddress) -> None:
    while True:
        try:
            async with Leadership(url) as leadership:
                log.info("this process leads")
                await Leader(database, address, leadership).run()
        except* LeadershipLostError as lost:
            log.warning("this process does not lead any more: %s", lost.exceptions[0])
        except* TakenOverError as taken:
            log.warning("another process leads: %s", taken.exceptions[0])
        await asyncio.sleep(_PAUSE)
