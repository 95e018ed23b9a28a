"""The lease of a reservation, which is extended for as long as this process lives."""

import asyncio
import logging
import time

from icefarm.errors import (
    FarmError,
    NoSuchReservationError,
    NotHolderError,
    ReservationEndedError,
)
from icefarm.requests import make
from icefarm.session import Session
from icefarm_schemas import ExtendRequest, Operation, ReservationState

_AGAIN = 2.0
"""Seconds before another attempt."""

log = logging.getLogger(__name__)


class Lease:
    """Extends a lease whenever half of it is over, or control warns that it ends soon.

    What is left of it is counted from the moment when it was given, by this machine's monotonic
    clock; control's clock only says by how much others have extended it since.

    Args:
        duration: seconds for which it is extended each time.
        left: seconds that are left of it.
    """

    def __init__(
        self, session: Session, state: ReservationState, duration: float, left: float
    ) -> None:
        self._session = session
        self._reservation = state.reservation
        self._duration = duration
        self._grant(state, left)
        self._warned = asyncio.Event()

    def _grant(self, state: ReservationState, left: float) -> None:
        self._left_then, self._then, self._ends = left, time.monotonic(), state.expires_at

    def warn(self) -> None:
        """Control says that it ends soon."""
        self._warned.set()

    async def keep(self) -> None:
        """Extend it again and again, until the reservation is over."""
        while True:
            try:
                async with asyncio.timeout(max(0.0, self._left() - self._duration / 2)):
                    await self._warned.wait()
            except TimeoutError:
                if self._left() > self._duration / 2:
                    continue  # Somebody has extended it meanwhile.
            if not await self._extend():
                return

    def _left(self) -> float:
        """Seconds, as far as is known here."""
        return self._left_then - (time.monotonic() - self._then) + self._extended_by()

    def _extended_by(self) -> float:
        """Seconds by which others have extended it."""
        state = self._session.view.reservations.get(self._reservation)
        if state is None or state.expires_at is None or self._ends is None:
            return 0.0
        return (state.expires_at - self._ends).total_seconds()

    async def _extend(self) -> bool:
        """Extend it; False when it is over."""
        request = make(ExtendRequest, reservations=(self._reservation,), duration=self._duration)
        while True:
            try:
                reply = await self._session.ask(Operation.EXTEND, request)
            except (ReservationEndedError, NoSuchReservationError, NotHolderError) as error:
                log.info("the lease of %s is not extended any more: %s", self._reservation, error)
                return False
            except FarmError as error:
                log.warning("the lease of %s is not extended yet: %s", self._reservation, error)
                await asyncio.sleep(_AGAIN)
                continue
            assert reply.reservations is not None  # Each operation has its kind of reply.
            self._warned.clear()
            self._grant(reply.reservations[0], self._duration)
            return True
