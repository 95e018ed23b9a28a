"""One board of a synchronous reservation; see `AsyncHeldBoard`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from icefarm.async_board import AsyncHeldBoard
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT
from icefarm.evaluating import Item
from icefarm.following import follow
from icefarm.results import Result, Source

if TYPE_CHECKING:
    from icefarm.reservation import Attachment, Console, Reservation


class HeldBoard:
    """A board that is held; it is made by its reservation. See `AsyncHeldBoard`.

    Attributes:
        name: what the farm calls it.
        agent: the agent that has it.
    """

    def __init__(self, reservation: "Reservation", board: AsyncHeldBoard) -> None:
        self._reservation, self._board = reservation, board
        self.agent = board.agent
        self.name = board.name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return repr(self._board)

    @property
    def behaviour(self) -> str:
        """What it is to do now. See `AsyncHeldBoard`."""
        return self._board.behaviour

    @property
    def status(self) -> str:
        """Where it is in its life, such as `ready`, with the reason when it is broken."""
        return self._board.status

    def measure(self, bitstream: Source) -> Result:
        """Measure one bitstream and return what came of it. See `AsyncHeldBoard.measure`."""
        [result] = self.evaluate([bitstream])
        return result.raise_for_error()

    def evaluate(self, bitstreams: Iterable[Item]) -> Iterator[Result]:
        """Measure bitstreams on this board. See `AsyncReservation.evaluate`."""
        return follow(self._reservation._client, self._board.evaluate, bitstreams)

    def attach(self, *, timeout: float = READY_TIMEOUT) -> "Attachment":
        """Plug it into this machine for `with`. See `AsyncReservation.attach`."""
        return self._reservation.attach(self, timeout=timeout)

    def console(self, *, timeout: float = READY_TIMEOUT) -> "Console":
        """Open its console for `with`. See `AsyncReservation.console`."""
        return self._reservation.console(self, timeout=timeout)

    def flash(self, uf2: Source, *, timeout: float = FLASH_TIMEOUT) -> None:
        """Write firmware of your own to it. See `AsyncReservation.flash`."""
        self._reservation.flash(uf2, [self], timeout=timeout)

    def reset(self, *, timeout: float = READY_TIMEOUT) -> None:
        """Start it anew in what it does. See `AsyncReservation.reset`."""
        self._reservation.reset([self], timeout=timeout)

    def change(self, behaviour: str, *, arguments: dict[str, Any] | None = None) -> None:
        """Let it do something else. See `AsyncReservation.change`."""
        self._reservation.change(behaviour, boards=[self], arguments=arguments)

    def release(self) -> None:
        """Give it back; the reservation keeps its others. See `AsyncReservation.release`."""
        self._reservation.release([self])
