"""`icefarm flash` and `reset`: firmware of the holder's own, and starting boards anew."""

from pathlib import Path
from typing import Annotated

import typer

from icefarm.async_client import AsyncClient
from icefarm.cli.app import Broker, Json, Name, app, err, print_json
from icefarm.cli.held import Held, find_held, run
from icefarm.cli.reservations import Boards
from icefarm.commanding import FLASH_TIMEOUT, READY_TIMEOUT

Reservation = Annotated[str | None, typer.Option(help="The boards of this one.")]
All = Annotated[bool, typer.Option("--all", help="All boards that you hold.")]


def _print_done(held: Held, what: str, as_json: bool) -> None:
    for reservation, boards in held:
        for board in boards:
            if as_json:
                print_json({"board": board, "reservation": reservation.id, "done": what})
            else:
                print(f"{board}: {what}", flush=True)


@app.command()
def flash(
    uf2: Annotated[
        Path, typer.Argument(help="The firmware, a .uf2 file.", exists=True, dir_okay=False)
    ],
    board: Boards = None,
    reservation: Reservation = None,
    everything: All = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until boards that do not answer have failed.")
    ] = FLASH_TIMEOUT,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Write firmware of your own to boards that you hold, and wait until they run it.

    Example: icefarm flash blink.uf2 --reservation 3f9a1c2b7d
    """

    async def work() -> None:
        async with AsyncClient(broker, name=name) as farm:
            held = await find_held(farm, reservation, board, everything)
            for one, boards in held:
                with err.status(f"Writing {uf2.name} to {', '.join(boards)} ..."):
                    await one.flash(uf2, boards, timeout=timeout)
            _print_done(held, "flashed", as_json)

    run(work())


@app.command()
def reset(
    board: Boards = None,
    reservation: Reservation = None,
    everything: All = False,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Start boards that you hold anew in what they do: exported again, or their firmware again.

    Example: icefarm reset --board bench-1
    """

    async def work() -> None:
        async with AsyncClient(broker, name=name) as farm:
            held = await find_held(farm, reservation, board, everything)
            for one, boards in held:
                with err.status(f"Resetting {', '.join(boards)} ..."):
                    await one.reset(boards, timeout=READY_TIMEOUT)
            _print_done(held, "reset", as_json)

    run(work())
