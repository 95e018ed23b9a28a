"""One board of a reservation, to be used by itself."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from icefarm.async_console import AsyncConsole
from icefarm.attaching import AsyncAttachment
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT
from icefarm.evaluating import Items
from icefarm.holding import Holding, key_of
from icefarm.results import Result, Source

if TYPE_CHECKING:
    from icefarm.async_reservation import AsyncReservation


class AsyncHeldBoard:
    """A board that is held; it is made by its reservation.

    Attributes:
        name: what the farm calls it.
        agent: the agent that has it.
    """

    def __init__(
        self, reservation: "AsyncReservation", holding: Holding, agent: str, name: str
    ) -> None:
        self._reservation, self._holding = reservation, holding
        self._key = (agent, name)
        self.agent = agent
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<board {self.name} of {self.agent} in reservation {self._reservation.id}>"

    @property
    def behaviour(self) -> str:
        """What it is to do now.

        Raises:
            BoardLostError: it is in the reservation no more.
        """
        for device in self._holding.state.devices:
            if key_of(device) == self._key:
                return device.behaviour
        raise self._holding.loss_of(self._key)

    @property
    def status(self) -> str:
        """Where it is in its life, such as `ready`, with the reason when it is broken."""
        return self._holding.status_of(self._key)

    async def measure(self, bitstream: Source) -> Result:
        """Measure one bitstream and return what came of it.

        Raises:
            InvalidBitstreamError, MeasurementFailedError: there is no measurement.
            BoardLostError: the board was lost meanwhile.
            InvalidRequestError: the file cannot be read.
            ReservationEndedError: the reservation ended meanwhile.
        """
        [result] = [result async for result in self.evaluate([bitstream])]
        return result.raise_for_error()

    def evaluate(self, bitstreams: Items) -> AsyncGenerator[Result, None]:
        """Measure bitstreams on this board. See `AsyncReservation.evaluate`."""
        return self._reservation._evaluate(bitstreams, [self._key], "fail")

    def attach(self, *, timeout: float = READY_TIMEOUT) -> AsyncAttachment:
        """Plug it into this machine. See `AsyncReservation.attach`."""
        return self._reservation.attach(self, timeout=timeout)

    def console(self, *, timeout: float = READY_TIMEOUT) -> AsyncConsole:
        """Open its console. See `AsyncReservation.console`."""
        return self._reservation.console(self, timeout=timeout)

    async def flash(self, uf2: Source, *, timeout: float = FLASH_TIMEOUT) -> None:
        """Write firmware of your own to it. See `AsyncReservation.flash`."""
        await self._reservation.flash(uf2, [self], timeout=timeout)

    async def reset(self, *, timeout: float = READY_TIMEOUT) -> None:
        """Start it anew in what it does. See `AsyncReservation.reset`."""
        await self._reservation.reset([self], timeout=timeout)

    async def change(self, behaviour: str, *, arguments: dict[str, Any] | None = None) -> None:
        """Let it do something else. See `AsyncReservation.change`."""
        await self._reservation.change(behaviour, boards=[self], arguments=arguments)

    async def release(self) -> None:
        """Give it back; the reservation keeps its others. See `AsyncReservation.release`."""
        await self._reservation.release([self])
