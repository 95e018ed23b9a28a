"""Waiting for boards that others have: in the queue, or until an event says that they are free.

    icefarm up                                          # in another terminal
    icefarm reserve --count 4                           # all of them are taken
    python examples/waiting_for_boards.py queue --limit 60
    icefarm release --all                               # in another terminal

Either way nothing is asked for again and again: the farm says when it is time.
"""

import sys
from typing import Annotated

import typer

import icefarm
from icefarm.events import BoardsAvailable

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)
Count = Annotated[int, typer.Option(min=1, help="How many boards.")]
Limit = Annotated[float, typer.Option(min=0, help="Seconds to wait for them.")]


@app.command()
def queue(count: Count = 2, limit: Limit = 600) -> None:
    """First come, first served: your turn comes though others ask later for fewer boards."""
    print(f"queueing for {count} boards", flush=True)
    try:
        with icefarm.Client() as farm, farm.reserve(count, wait=limit) as reservation:
            print("mine now:", *reservation.boards)
    except icefarm.NotAvailableError as error:
        sys.exit(f"not this time: {error}")


@app.command()
def event(count: Count = 2, limit: Limit = 600) -> None:
    """For whom it is enough to know: nothing is reserved, and whoever asks first has them."""
    with icefarm.Client() as farm:

        @farm.on(BoardsAvailable)
        def tell(event: BoardsAvailable) -> None:
            print(f"free now: {event.available}", flush=True)

        print(f"waiting until {count} boards are free", flush=True)
        try:
            farm.wait_until_available(count, timeout=limit)
        except icefarm.TimedOutError as error:
            sys.exit(f"not this time: {error}")
        print(f"{count} boards are free")


if __name__ == "__main__":
    app()
