"""The boards that a command uses: of a reservation, or by name, or reserved for the command."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from rich.markup import escape

from icefarm.async_client import AsyncClient
from icefarm.async_reservation import AsyncReservation
from icefarm.boards import names_of
from icefarm.cli.ending import err
from icefarm.errors import InvalidRequestError, NotHolderError
from icefarm_schemas import ReservationState, ReservationStatus

Held = list[tuple[AsyncReservation, tuple[str, ...]]]
"""Reservations, each with those of its boards that are meant."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end."""
    # The loop that watches sockets, as the MQTT library needs; on Windows it is not the default.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(work)


def say(text: str) -> None:
    """A line for people."""
    err.print(escape(text), soft_wrap=True, highlight=False)


async def reserve(farm: AsyncClient, count: int | None, **wanted: Any) -> AsyncReservation:
    """Reserve boards, as `AsyncClient.reserve` does, and show the place in the queue meanwhile."""
    reserving = farm.reserve(count, **wanted)
    if wanted.get("wait") is None:
        with err.status("Reserving ..."):
            return await reserving
    showing = asyncio.create_task(_show_place(farm))
    try:
        return await reserving
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show_place(farm: AsyncClient) -> None:
    told: int | None = None
    with err.status("Reserving ...") as status:
        while True:
            queued = [
                state
                for state in await farm.reservations(everybody=True)
                if state.status is ReservationStatus.QUEUED
            ]
            for state in queued:
                if state.session == farm.session and state.position != told:
                    told = state.position
                    text = f"Waiting for boards: {told} of {len(queued)} in the queue"
                    if err.is_terminal:
                        status.update(text)
                    else:
                        say(text)
            await farm.changed()


async def find_held(
    farm: AsyncClient, reservation: str | None, boards: list[str] | None, everything: bool = False
) -> Held:
    """What is held already, by any process of this user, which keeps it.

    Raises:
        NotHolderError: a board that is named is not held.
        InvalidRequestError: nothing is named.
    """
    if reservation is not None:
        found = await farm.find_reservation(reservation, take_over=False)
        for board in boards or ():
            found.board(board)
        return [(found, tuple(boards) if boards else names_of(found))]
    if not boards and not everything:
        raise InvalidRequestError("say what: --reservation, or --board, or --all")
    states = await _active(farm)
    chosen = {
        state.reservation: tuple(
            d.device for d in state.devices if everything or d.device in (boards or ())
        )
        for state in states
    }
    for board in boards or ():
        if not any(board in names for names in chosen.values()):
            raise NotHolderError(f"the board {board!r} is in no reservation of {farm.name!r}")
    return [
        (await farm.find_reservation(name, take_over=False), names)
        for name, names in chosen.items()
        if names
    ]


async def _active(farm: AsyncClient) -> list[ReservationState]:
    states = await farm.reservations()
    return [state for state in states if state.status is ReservationStatus.ACTIVE]


@asynccontextmanager
async def hold(
    farm: AsyncClient,
    reservation: str | None,
    boards: list[str] | None,
    behaviour: str,
    *,
    count: int = 1,
    only_one: bool = False,
    **wanted: Any,
) -> AsyncIterator[Held]:
    """Boards with a behaviour: those that are held, which change to it, or newly reserved ones.

    Only the latter, for which `wanted` is as for `AsyncClient.reserve`, are given back at the end.
    """
    if reservation is None and not await _holds(farm, boards):
        number = None if boards else count
        async with await reserve(
            farm, number, boards=boards, behaviour=behaviour, **wanted
        ) as held:
            names = names_of(held)
            say(f"Reserved {', '.join(names)} as {held.id}, for as long as this runs")
            yield [(held, names)]
        return
    found = await find_held(farm, reservation, boards)
    every = [name for _, names in found for name in names]
    if only_one and len(every) != 1:
        raise InvalidRequestError(f"say which with --board: {', '.join(every)}")
    for held, names in found:
        does = {device.device: device.behaviour for device in held.state.devices}
        others = [name for name in names if does[name] != behaviour]
        if others:
            say(f"Changing {', '.join(others)} to {behaviour} ...")
            await held.change(behaviour, boards=others)
    yield found


async def _holds(farm: AsyncClient, boards: list[str] | None) -> bool:
    """Whether one of the named boards is held already."""
    if not boards:
        return False
    held = {device.device for state in await _active(farm) for device in state.devices}
    return not held.isdisjoint(boards)
