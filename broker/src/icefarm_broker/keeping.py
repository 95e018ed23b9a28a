"""Holds a connection to the broker, and makes it again with growing pauses when it is lost."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

from icefarm_broker.errors import (
    BrokerUnreachableError,
    ConnectionLostError,
    LoginRefusedError,
    NotAuthorisedError,
    TakenOverError,
)
from icefarm_broker.mqtt import MqttClient

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_SHORT = 5.0
"""Seconds; a connection that lasts no longer does not make the pauses short again."""
_MANY = 3
"""Short connections in a row that are worth a word."""

log = logging.getLogger(__name__)


class Keeper:
    """Has a connection made, first by `start`, and from then on whenever it is lost.

    Args:
        client_id: as which the connection is made, for messages.
        patience: seconds to keep trying for the first connection; None tries for ever.
        make: makes one connection, or raises a `BrokerError`.
        lost: called with the reason whenever the connection is lost.
        ended: called when there will be no other one; `result` says why.
    """

    def __init__(
        self,
        client_id: str,
        patience: float | None,
        make: Callable[[], Awaitable[MqttClient]],
        lost: Callable[[Exception], None],
        ended: Callable[[], None],
    ) -> None:
        self._client_id, self._patience = client_id, patience
        self._make, self._lost, self._ended = make, lost, ended
        self._mqtt: MqttClient | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.losses = 0
        """How often the connection was lost."""

    @property
    def now(self) -> MqttClient | None:
        """The connection, if there is one as far as is known."""
        return self._mqtt if self._up.is_set() else None

    async def start(self) -> None:
        """Return when the first connection is there.

        Raises:
            LoginRefusedError: the broker refuses the user name or password.
            BrokerUnreachableError: no connection came about within `patience`.
        """
        self._task = asyncio.create_task(self._keep(), name=f"connection {self._client_id}")
        self._task.add_done_callback(lambda _: self._ended())
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait([up, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            up.cancel()
        if self._task.done():
            await self._task

    async def stop(self, *, with_will: bool) -> None:
        """Close the connection, if there is one, and make no other."""
        assert self._task is not None
        self._task.cancel()
        # An error of the task's is told by `result`.
        await asyncio.gather(self._task, return_exceptions=True)
        mqtt, self._mqtt = self._mqtt, None
        if mqtt is not None:
            await mqtt.close(with_will=with_will)
        # Those who still wait see that there is no connection, rather than waiting for ever.
        self._up.set()

    async def result(self) -> None:
        """Raise what has ended all connecting, once it has ended.

        Raises:
            TakenOverError: another process uses this client id, so this one stops.
        """
        assert self._task is not None
        await self._task

    async def persist(self, work: Callable[[MqttClient], Awaitable[None]]) -> None:
        """Do `work` once there is a connection, and again each time that it is lost meanwhile.

        Raises:
            ConnectionLostError: there will be none any more, since this has been stopped.
        """
        while True:
            await self._up.wait()
            if (mqtt := self._mqtt) is None:
                raise ConnectionLostError("the connection has been closed")
            try:
                return await work(mqtt)
            except ConnectionLostError:
                # The client has seen the loss when `lost` is done; the task follows.
                await asyncio.wait([mqtt.lost])
                if mqtt is self._mqtt:
                    self._up.clear()

    async def _keep(self) -> None:
        pause, started, ever, short = _FIRST_PAUSE, time.monotonic(), False, 0
        while True:
            try:
                mqtt = await self._make()
                made = time.monotonic()
                ever = True
                self._mqtt = mqtt
                self._up.set()
                await asyncio.wait([mqtt.lost])
                why = mqtt.why_lost()
                self._up.clear()
                self.losses += 1
                self._lost(why)
                if isinstance(why, TakenOverError):
                    raise why
                log.warning("%s; connecting again", why)
                short = short + 1 if time.monotonic() - made < _SHORT else 0
                if short == 0:
                    pause = _FIRST_PAUSE
                elif short % _MANY == 0:
                    # Mosquitto 2.0.11 closes a connection that is taken over without a word.
                    log.error(
                        "the last %d connections as %r were cut at once; perhaps another process "
                        "uses the same name: stop it, or give this one another name",
                        short,
                        self._client_id,
                    )
            except (BrokerUnreachableError, LoginRefusedError, NotAuthorisedError) as error:
                patience = math.inf if ever or self._patience is None else self._patience
                refused = not isinstance(error, BrokerUnreachableError) and patience < math.inf
                if refused or time.monotonic() - started > patience:
                    raise
                log.warning("%s (trying again)", error)
            except ConnectionLostError as error:
                log.warning("%s while the connection was being made", error)
            # Spread out, so that a farm's hundred agents do not all return in the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
