"""`icefarm reserve`, `extend` and `release`."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape

from icefarm.cli.app import Broker, Json, Name, app, fail, open_farm, out, print_json, show_error
from icefarm.errors import FarmError, InvalidRequestError
from icefarm_schemas import DEFAULT_DURATION, ReservationState

Duration = Annotated[float, typer.Option(help="Seconds until the lease ends.", min=0.1)]
Wait = Annotated[
    float | None, typer.Option(help="Seconds to queue for boards that are not free.", min=0.1)
]
Priority = Annotated[
    int, typer.Option(help="In the queue: higher ones are served first.", min=-10, max=10)
]
Ids = Annotated[list[str], typer.Argument(help="Ids, as `icefarm reserve` printed them.")]


def _show(state: ReservationState, words: str, as_json: bool) -> None:
    if as_json:
        print_json(state.model_dump(mode="json", exclude_none=True))
    else:
        names = ", ".join(device.device for device in state.devices)
        line = f"[bold]{state.reservation}[/bold] {escape(words)}: {escape(names)}"
        out.print(line, soft_wrap=True)


def _each(
    reservations: list[str], work: Callable[[str], ReservationState]
) -> Iterator[ReservationState]:
    """Do it for all of them, and fail at the end with the first that was refused."""
    refused: list[FarmError] = []
    for reservation in reservations:
        try:
            yield work(reservation)
        except FarmError as error:
            if refused:
                show_error(error)
            refused.append(error)
    if refused:
        fail(refused[0])


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON is taken as such, any other as text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            fail(InvalidRequestError(f"an argument is written key=value, not {pair!r}"))
        try:
            arguments[key] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[key] = value
    return arguments


@app.command()
def reserve(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many boards.")] = 1,
    board: Annotated[
        list[str] | None, typer.Option(help="Exactly this board; repeat it for several.")
    ] = None,
    behaviour: Annotated[str, typer.Option(help="What the boards are to do.")] = "pulsecount",
    argument: Annotated[
        list[str] | None, typer.Option(help="For the behaviour, as key=value.")
    ] = None,
    duration: Duration = DEFAULT_DURATION,
    wait: Wait = None,
    priority: Priority = 0,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Reserve boards and keep them until `icefarm release` or the end of the lease.

    Example: icefarm reserve --count 2 --duration 600 --wait 300
    """
    arguments = parse_arguments(argument or [])
    with open_farm(broker, name) as farm:
        reservation = farm.reserve(
            None if board else count,
            boards=board,
            behaviour=behaviour,
            arguments=arguments,
            duration=duration,
            keep=True,
            wait=wait,
            priority=priority,
        )
        until = reservation.expires_at.astimezone()
        _show(reservation.state, f"is ready until {until:%Y-%m-%d %H:%M:%S}", as_json)


@app.command()
def extend(
    reservations: Ids,
    duration: Duration = DEFAULT_DURATION,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Let reservations end later: so many seconds from now.

    Example: icefarm extend 3f9a1c2b7d --duration 3600
    """
    with open_farm(broker, name) as farm:
        for state in _each(reservations, lambda reservation: farm.extend(reservation, duration)):
            _show(state, f"now ends {state.expires_at:%Y-%m-%d %H:%M:%S} UTC", as_json)


@app.command()
def release(
    reservations: Ids, broker: Broker = None, name: Name = None, as_json: Json = False
) -> None:
    """Give back the boards of reservations.

    Example: icefarm release 3f9a1c2b7d
    """
    with open_farm(broker, name) as farm:
        for state in _each(reservations, farm.release):
            _show(state, "is released", as_json)
