"""Results on their way to the sessions that wait for them."""

import asyncio
import logging

from icefarm_broker import Connection, NobodyListensError, NotAuthorisedError, PublishRefusedError
from icefarm_schemas import CommandRefused, EvaluationFinished
from icefarm_schemas.topics import EventsTopic

_MOST_WAITING = 1000

log = logging.getLogger(__name__)


class Outbox:
    """Events in the order in which they happened, so that boards do not wait for the network.

    While the broker is away they collect here; when that becomes too many, boards wait after all.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: asyncio.Queue[tuple[EventsTopic, EvaluationFinished | CommandRefused]] = (
            asyncio.Queue(_MOST_WAITING)
        )

    async def put(
        self, client: str, session: str, event: EvaluationFinished | CommandRefused
    ) -> None:
        """Send an event to a session."""
        await self._waiting.put((EventsTopic(client, session), event))

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            topic, event = await self._waiting.get()
            try:
                await self._connection.publish(topic, event)
            except NobodyListensError:
                # The session is gone for longer than its grace; control ends its reservations.
                log.info("nobody waits for %s any more", topic.build(self._connection.root))
            except (NotAuthorisedError, PublishRefusedError) as error:
                log.error("an event was refused: %s", error)
