"""Results on their way to the sessions that wait for them."""

import asyncio
import logging
import time

from icefarm_broker import Connection, NobodyListensError, NotAuthorisedError, PublishRefusedError
from icefarm_schemas import (
    CommandFinished,
    CommandRefused,
    DeviceReady,
    DeviceUnbound,
    EvaluationFinished,
    StreamClosed,
    StreamOpened,
)
from icefarm_schemas.topics import EventsTopic

_MOST_WAITING = 1000
_RETURN_OF_A_SESSION = 30.0
"""Seconds for which an event waits for a session that a restarted broker does not know yet."""
_PAUSE = 0.5

_Answer = EvaluationFinished | CommandFinished | CommandRefused
"""What somebody waits for."""
_Event = _Answer | DeviceReady | DeviceUnbound | StreamOpened | StreamClosed

log = logging.getLogger(__name__)


class Outbox:
    """Events in the order in which they happened, so that boards do not wait for the network.

    While the broker is away they collect here; when that becomes too many, boards wait after all.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: asyncio.Queue[tuple[EventsTopic, _Event]] = asyncio.Queue(_MOST_WAITING)

    async def put(self, client: str, session: str, event: _Event) -> None:
        """Send an event to a session."""
        await self._waiting.put((EventsTopic(client, session), event))

    async def run(self) -> None:
        """Publish for ever."""
        async with asyncio.TaskGroup() as later:
            while True:
                topic, event = await self._waiting.get()
                if not await self._publish(topic, event) and isinstance(event, _Answer):
                    later.create_task(self._publish_later(topic, event))

    async def _publish(self, topic: EventsTopic, event: _Event) -> bool:
        """Publish, and tell whether that is the end of it: a refusal is, an absence is not."""
        try:
            await self._connection.publish(topic, event)
        except NobodyListensError:
            return False
        except (NotAuthorisedError, PublishRefusedError) as error:
            log.error("an event was refused: %s", error)
        return True

    async def _publish_later(self, topic: EventsTopic, event: _Event) -> None:
        deadline = time.monotonic() + _RETURN_OF_A_SESSION
        while time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE)
            if await self._publish(topic, event):
                return
        log.info("nobody waits for %s any more", topic.build(self._connection.root))
