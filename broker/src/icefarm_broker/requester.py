"""Requests and their replies, matched by correlation data."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from icefarm_broker.connection import Connection
from icefarm_broker.errors import NobodyListensError, RequestTimedOutError
from icefarm_broker.happenings import Received
from icefarm_schemas import Message, Reply
from icefarm_schemas.topics import OperatorTopic, RepliesTopic, RequestTopic

_RETURN_OF_CONTROL = 25.0
"""Seconds, less than a request's usual patience, so that the reason of a failure can be told."""
_WANTED = 5
"""Seconds for which each sending of a request may wait to be carried out; the next one follows."""
_MOST_GIVEN_UP = 1000
_PAUSE = 0.2


class Requester:
    """Asks control for one session. Its owner subscribes to `replies` and feeds it what comes.

    Args:
        is_served: whether control is there, by its state. The broker's own answer, that nobody
            listens, is not given where somebody watches all topics.
        attempt: seconds after which a request without a reply is sent again; control repeats
            the answer of a request that it has already carried out, so that is harmless.
        on_late: called with the reply to a request that had been given up, and its operation.

    Where control was there before, it is given the time to come back: it may be restarting.
    """

    def __init__(
        self,
        connection: Connection,
        client: str,
        session: str,
        is_served: Callable[[], bool],
        on_late: Callable[[str, Reply], None],
        *,
        attempt: float = 2,
    ) -> None:
        self._connection = connection
        self._client, self._session = client, session
        self._is_served = is_served
        self._on_late = on_late
        self._attempt = attempt
        self._given_up: OrderedDict[bytes, str] = OrderedDict()
        self._was_served = False
        self._waiting: dict[bytes, asyncio.Future[Reply]] = {}
        self.replies = RepliesTopic(client, session)

    async def request(
        self, operation: str, message: Message, *, timeout: float, as_operator: bool = False
    ) -> Reply:
        """Send a request and return its reply within `timeout` seconds.

        Raises:
            NobodyListensError: control is not running.
            RequestTimedOutError: no reply came in time.
            NotAuthorisedError: the access list forbids it.
        """
        kind = OperatorTopic if as_operator else RequestTopic
        topic = kind(self._client, self._session, operation)
        # Correlation data is bytes on the wire; as text it can be read in mosquitto_sub's output.
        correlation = secrets.token_hex(8).encode()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = answer
        self._was_served = self._was_served or self._is_served()
        returns_until = time.monotonic() + (_RETURN_OF_CONTROL if self._was_served else 0)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        await self._connection.publish(
                            topic,
                            message,
                            response_topic=self.replies,
                            correlation=correlation,
                            expiry=_WANTED,
                        )
                        done, _ = await asyncio.wait([answer], timeout=self._attempt)
                        if done:
                            return answer.result()
                        if not self._is_served():
                            raise NobodyListensError("control is offline")
                    except NobodyListensError:
                        if time.monotonic() > returns_until:
                            raise
                        await asyncio.sleep(_PAUSE)
        except TimeoutError:
            raise RequestTimedOutError(
                f"no reply to {operation} within {timeout:g} s; control may be overloaded or "
                f"have just stopped"
            ) from None
        finally:
            del self._waiting[correlation]
            if not answer.done():
                self._given_up[correlation] = operation
                if len(self._given_up) > _MOST_GIVEN_UP:
                    self._given_up.popitem(last=False)

    def receive(self, received: Received) -> bool:
        """Take a message if it is a reply; a repeated one is dropped."""
        if received.topic != self.replies:
            return False
        correlation = received.delivery.correlation or b""
        answer = self._waiting.get(correlation)
        if answer is not None and not answer.done():
            answer.set_result(received.message)
        elif (operation := self._given_up.pop(correlation, None)) is not None:
            self._on_late(operation, received.message)
        return True
