"""One control process: it answers requests, and leads when no other one does."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from icefarm_broker import BrokerAddress, TakenOverError
from icefarm_control.database import Database
from icefarm_control.health import Health
from icefarm_control.leader import Leader
from icefarm_control.leadership import Leadership, LeadershipLostError
from icefarm_control.requests import Requests
from icefarm_control.web.changes import Changes
from icefarm_control.web.seen import Seen

_PAUSE = 0.5
"""Seconds after the leadership was lost."""

log = logging.getLogger(__name__)


async def run_control(
    url: str, address: BrokerAddress, health: Health, web: tuple[str, int] | None = None
) -> None:
    """Work for ever, sharing the work with all others on the database at `url`.

    With `web`, a host and a port, the dashboard and how this process is can be seen there, also
    while it cannot work.
    """
    changes = Changes()
    seen = Seen(changes)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(health.watch(url))
        if web is not None:
            # All that it needs takes as long to load as everything else.
            from icefarm_control.web.parts import serve_dashboard

            tasks.create_task(serve_dashboard(web, url, address, health, seen, changes))
        # What only the dashboard shows comes only where there is one.
        tasks.create_task(_control(url, address, seen if web is not None else None))


async def _control(url: str, address: BrokerAddress, seen: Seen | None) -> None:
    answering, reading, leading = databases = [Database(url) for _ in range(3)]
    try:
        for database in databases:
            await database.open()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Requests(answering, reading, address, seen).run())
            tasks.create_task(_lead(leading, url, address))
    finally:
        for database in databases:
            await database.close()


async def _lead(database: Database, url: str, address: BrokerAddress) -> None:
    is_told = False
    while True:
        try:
            async with Leadership(url) as leadership:
                log.info("this process leads")
                is_told = False
                await _in_a_task(Leader(database, address, leadership).run())
        except* LeadershipLostError as lost:
            # As long as the database is away, each attempt to lead again fails as well.
            if not is_told:
                log.warning("this process does not lead any more: %s", lost.exceptions[0])
            is_told = True
        except* TakenOverError as taken:
            log.warning("another process leads: %s", taken.exceptions[0])
        await asyncio.sleep(_PAUSE)


async def _in_a_task(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and be cancelled also in the moment in which it fails.

    Up to Python 3.12, a group of tasks that fails while it is cancelled only tells that it failed.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await task
