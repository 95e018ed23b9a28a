"""`icefarm flash` and `reset`: firmware of the holder's own, and starting boards anew."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from icefarm.async_client import AsyncClient
from icefarm.async_reservation import AsyncReservation
from icefarm.cli.app import FarmOptions, Json, command, print_json
from icefarm.cli.completing import complete_reservation
from icefarm.cli.ending import err
from icefarm.cli.held import Held, find_held, run
from icefarm.cli.progress import bar
from icefarm.cli.reservations import Boards
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT

Reservation = Annotated[
    str | None,
    typer.Option(help="The boards of this one.", autocompletion=complete_reservation),
]
All = Annotated[bool, typer.Option("--all", help="All boards that you hold.")]


def _print_done(held: Held, what: str, as_json: bool) -> None:
    for reservation, boards in held:
        for board in boards:
            if as_json:
                print_json({"board": board, "reservation": reservation.id, "done": what})
            else:
                print(f"{board}: {what}", flush=True)


async def _show_progress(
    farm: AsyncClient, what: str, reservation: AsyncReservation, boards: tuple[str, ...]
) -> None:
    """Until it is cancelled: how many boards have left what they did, and are ready again."""
    begun: set[str] = set()
    with bar(what, len(boards)) as show:
        while True:
            ready = {
                board.name
                for board in await farm.boards()
                if board.reservation == reservation.id and board.status == "ready"
            }
            begun |= set(boards) - ready
            show(len(begun & ready))
            await farm.changed()


@asynccontextmanager
async def _progress(
    farm: AsyncClient, what: str, reservation: AsyncReservation, boards: tuple[str, ...]
) -> AsyncIterator[None]:
    if not err.is_terminal:
        # Nobody would see it, and it listens to the whole farm.
        yield
        return
    showing = asyncio.create_task(_show_progress(farm, what, reservation, boards))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


@command
def flash(
    options: FarmOptions,
    uf2: Annotated[
        Path, typer.Argument(help="The firmware, a .uf2 file.", exists=True, dir_okay=False)
    ],
    board: Boards = None,
    reservation: Reservation = None,
    everything: All = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until boards that do not answer have failed.")
    ] = FLASH_TIMEOUT,
    as_json: Json = False,
) -> None:
    """Write firmware of your own to boards that you hold, and wait until they run it.

    Example: icefarm flash blink.uf2 --reservation 3f9a1c2b7d
    """

    async def work() -> None:
        async with options.open_async() as farm:
            held = await find_held(farm, reservation, board, everything)
            for one, boards in held:
                async with _progress(farm, f"Writing {uf2.name}", one, boards):
                    await one.flash(uf2, boards, timeout=timeout)
            _print_done(held, "flashed", as_json)

    run(work())


@command
def reset(
    options: FarmOptions,
    board: Boards = None,
    reservation: Reservation = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Start boards that you hold anew in what they do: exported again, or their firmware again.

    Example: icefarm reset --board bench-1
    """

    async def work() -> None:
        async with options.open_async() as farm:
            held = await find_held(farm, reservation, board, everything)
            for one, boards in held:
                async with _progress(farm, "Resetting", one, boards):
                    await one.reset(boards, timeout=READY_TIMEOUT)
            _print_done(held, "reset", as_json)

    run(work())
