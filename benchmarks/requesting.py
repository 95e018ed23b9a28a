"""Requests to control as the client library makes them, but without waiting for boards to start.

This is the one place in the benchmarks that knows how a reservation is asked for and answered.
"""

import asyncio

import icefarm
from icefarm.reserving import until_given
from icefarm_schemas import Operation, ReservationState, ReserveRequest

_PAUSE = 0.02
"""Seconds between requests for boards that control does not know yet."""
_PATIENCE = 30.0
"""Seconds; only a benchmark that fails waits for so long."""


async def until_served(client: icefarm.AsyncClient) -> None:
    """Return when control is there. Unlike `changed`, this does not subscribe to all boards."""
    while not await client.is_served():
        await client._view.changed()


async def until_available(client: icefarm.AsyncClient, boards: int) -> None:
    """Return when so many boards are free."""
    while sum(board.status == "available" for board in await client.boards()) < boards:
        await client._view.changed()


async def reserve(
    client: icefarm.AsyncClient, count: int = 1, *, wait: float | None = None
) -> ReservationState:
    """Ask control for `count` boards, perhaps queueing for `wait` seconds, and take its reply."""
    request = ReserveRequest(behaviour="pulsecount", count=count, wait=wait)
    [state] = await client._request(Operation.RESERVE, request)
    return state


async def release(client: icefarm.AsyncClient, held: ReservationState) -> None:
    """Give back a reservation's boards, and return when control has confirmed it."""
    await client.release(held.reservation)


async def reserve_when_known(client: icefarm.AsyncClient, count: int = 1) -> ReservationState:
    """Reserve as soon as control knows of so many boards; until then it refuses."""
    while True:
        try:
            return await reserve(client, count)
        except (icefarm.NotAvailableError, icefarm.NoSuchBehaviourError):
            await asyncio.sleep(_PAUSE)


async def until_active(client: icefarm.AsyncClient, queued: ReservationState) -> None:
    """Wait in the queue as `AsyncClient.reserve` does, until there are boards.

    Raises:
        TimeoutError: there are none for a long time, though they have been released.
    """
    async with asyncio.timeout(_PATIENCE):
        await until_given(client._session, queued.reservation)


async def until_known(client: icefarm.AsyncClient, queued: ReservationState) -> None:
    """Return when a client that waits in the queue has seen its reservation's retained state."""
    while queued.reservation not in client._view.reservations:
        await client._view.changed()
