"""`icefarm reserve`, `extend`, `change` and `release`."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape

from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.completing import complete_behaviour, complete_board, complete_reservation
from icefarm.cli.ending import show_error
from icefarm.cli.held import reserve as reserve_boards
from icefarm.cli.held import run
from icefarm.errors import FarmError, InvalidRequestError
from icefarm_schemas import (
    DEFAULT_DEVICE_GRACE,
    DEFAULT_DURATION,
    ReservationState,
    ReservationStatus,
)

Duration = Annotated[float, typer.Option(help="Seconds until the lease ends.", min=0.1)]
Wait = Annotated[
    float | None, typer.Option(help="Seconds to queue for boards that are not free.", min=0.1)
]
Priority = Annotated[
    int, typer.Option(help="In the queue: higher ones are served first.", min=-10, max=10)
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        help="Ids, as `icefarm reservations` lists them.", autocompletion=complete_reservation
    ),
]
Boards = Annotated[
    list[str] | None,
    typer.Option(
        "--board",
        help="This board of yours; repeat it for several.",
        autocompletion=complete_board,
    ),
]
Behaviour = Annotated[
    str, typer.Option(help="What the boards are to do.", autocompletion=complete_behaviour)
]
All = Annotated[bool, typer.Option("--all", help="Everything that you hold.")]
Arguments = Annotated[
    list[str] | None, typer.Option("--argument", help="For the behaviour, as key=value.")
]


def _show(state: ReservationState, words: str, as_json: bool) -> None:
    if as_json:
        print_json(state.model_dump(mode="json", exclude_none=True))
    else:
        names = ", ".join(device.device for device in state.devices)
        line = f"[bold]{state.reservation}[/bold] {escape(words)}: {escape(names)}"
        out.print(line, soft_wrap=True)


def local(moment: datetime | None) -> str:
    """A time, as people here read it."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _on_each(
    chosen: list[str],
    boards: list[str] | None,
    everything: bool,
    work: Callable[..., list[ReservationState]],
) -> Iterator[ReservationState]:
    """Do it for each reservation that is named, and fail at the end with the first refusal."""
    if (bool(chosen) + bool(boards) + everything) != 1:
        raise InvalidRequestError("say what: ids of reservations, or --board, or --all")
    if not chosen:
        yield from work(boards=boards, everything=everything)
        return
    refused: list[FarmError] = []
    for reservation in chosen:
        try:
            yield from work(reservation)
        except FarmError as error:
            if refused:
                show_error(error)
            refused.append(error)
    if refused:
        raise refused[0]


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON is taken as such, any other as text."""
    arguments: dict[str, Any] = {}
    for key, value in parse_pairs("argument", pairs):
        try:
            arguments[key] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[key] = value
    return arguments


def parse_pairs(what: str, pairs: list[str]) -> Iterator[tuple[str, str]]:
    """`key=value` pairs."""
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidRequestError(f"the {what} {pair!r} is not written key=value")
        yield key, value


@command
def reserve(
    options: FarmOptions,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many boards.")] = 1,
    board: Annotated[
        list[str] | None,
        typer.Option(
            help="Exactly this board; repeat it for several.", autocompletion=complete_board
        ),
    ] = None,
    behaviour: Behaviour = "pulsecount",
    product: Annotated[str | None, typer.Option(help="Only boards of this product.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only boards labelled key=value; repeat it.")
    ] = None,
    argument: Arguments = None,
    duration: Duration = DEFAULT_DURATION,
    wait: Wait = None,
    priority: Priority = 0,
    board_grace: Annotated[
        float,
        typer.Option(help="Seconds for which a board may be away before it counts as lost.", min=0),
    ] = DEFAULT_DEVICE_GRACE,
    as_json: Json = False,
) -> None:
    """Reserve boards and keep them until `icefarm release` or the end of the lease.

    Example: icefarm reserve --count 2 --duration 600 --wait 300
    """
    arguments = parse_arguments(argument or [])
    labels = {key: str(value) for key, value in parse_pairs("label", label or [])}

    async def work() -> None:
        async with options.open_async() as farm:
            reservation = await reserve_boards(
                farm,
                None if board else count,
                boards=board,
                behaviour=behaviour,
                product=product,
                labels=labels,
                arguments=arguments,
                duration=duration,
                keep=True,
                wait=wait,
                priority=priority,
                board_grace=board_grace,
            )
            _show(reservation.state, f"is ready until {local(reservation.expires_at)}", as_json)

    run(work())


@command
def extend(
    options: FarmOptions,
    reservations: Ids = None,
    board: Boards = None,
    everything: All = False,
    duration: Duration = DEFAULT_DURATION,
    as_json: Json = False,
) -> None:
    """Let reservations end later: so many seconds from now.

    Example: icefarm extend 3f9a1c2b7d --duration 3600
    """
    with options.open() as farm:
        longer = partial(farm.extend, duration=duration)
        for state in _on_each(reservations or [], board, everything, longer):
            _show(state, f"now ends {local(state.expires_at)}", as_json)


@command
def change(
    options: FarmOptions,
    behaviour: Behaviour,
    reservations: Ids = None,
    board: Boards = None,
    everything: All = False,
    argument: Arguments = None,
    as_json: Json = False,
) -> None:
    """Let boards do something else while they stay reserved.

    Example: icefarm change 3f9a1c2b7d --behaviour variance --argument waveform=true
    """
    arguments = parse_arguments(argument or [])
    with options.open() as farm:
        other = partial(farm.change, behaviour=behaviour, arguments=arguments)
        for state in _on_each(reservations or [], board, everything, other):
            _show(state, "changes", as_json)


@command
def release(
    options: FarmOptions,
    reservations: Ids = None,
    board: Boards = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Give back the boards of reservations, or some of them.

    Example: icefarm release 3f9a1c2b7d
    """
    with options.open() as farm:
        for state in _on_each(reservations or [], board, everything, farm.release):
            over = state.status is ReservationStatus.ENDED
            _show(state, "is released" if over else "keeps", as_json)
