"""A reservation on its way: asked for, perhaps queued, and waited for until it can be used."""

from collections.abc import Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from icefarm.async_reservation import AsyncReservation
from icefarm.errors import FarmError, NotAvailableError, ReservationEndedError
from icefarm.leasing import Lease
from icefarm.session import Session
from icefarm_schemas import (
    EndReason,
    Operation,
    ReservationState,
    ReservationStatus,
    ReserveRequest,
)
from icefarm_schemas.topics import ReservationStateTopic

if TYPE_CHECKING:
    from icefarm.async_client import AsyncClient


class Reserving:
    """Await it, or enter it with `async with`, which releases the boards at its end."""

    def __init__(
        self, client: "AsyncClient", session: Session, request: ReserveRequest, auto_extend: bool
    ) -> None:
        self._client, self._session, self._request = client, session, request
        self._auto_extend = auto_extend

    def __await__(self) -> Generator[Any, None, AsyncReservation]:
        return self._reserve().__await__()

    async def __aenter__(self) -> AsyncReservation:
        self._reservation = await self
        return self._reservation

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._reservation.__aexit__(kind, error, traceback)

    async def _reserve(self) -> AsyncReservation:
        reply = await self._session.ask(Operation.RESERVE, self._request)
        assert reply.reservations is not None  # Each operation has its kind of reply.
        [state] = reply.reservations
        try:
            if state.status is ReservationStatus.QUEUED:
                state = await until_given(self._session, state.reservation)
            duration = self._request.duration
            lease = Lease(self._session, state, duration, duration) if self._auto_extend else None
            reservation = await self._client._open(state, lease)
            await reservation.wait_until_ready()
        except BaseException:
            # The reason is worth more than what goes wrong on the way out.
            with suppress(FarmError):
                await self._client.release(state.reservation)
            await self._client._close(state)
            raise
        return reservation


async def until_given(session: Session, reservation: str) -> ReservationState:
    """Wait in the queue until a reservation has boards.

    Raises:
        NotAvailableError: it has waited for as long as it was ready to.
        ReservationEndedError: it left the queue for another reason.
    """
    topic = ReservationStateTopic(reservation).build(session.root)
    view = session.view
    session.followed.add(reservation)
    try:
        await session.subscribe(topic)
        session.followed.ask_if_silent(reservation)
        while True:
            state = view.reservations.get(reservation)
            if state is not None and state.status is ReservationStatus.ACTIVE:
                return state
            if reservation in view.ended:
                raise _not_served(reservation, view.ended[reservation])
            await session.while_listening(view.changed())
    except BaseException:
        await session.connection.unsubscribe(topic)
        raise
    finally:
        session.followed.remove(reservation)


def _not_served(reservation: str, reason: EndReason | None) -> FarmError:
    if reason is EndReason.NOT_SERVED:
        return NotAvailableError("there were not enough free boards for as long as was waited")
    why = reason.replace("_", " ") if reason else "while this client was away"
    return ReservationEndedError(f"the reservation {reservation} left the queue: {why}")
