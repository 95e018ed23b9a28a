"""`icefarm history` and `usage`: who held what, when, why it ended, and how much it comes to."""

from datetime import datetime, timedelta
from typing import Annotated

import typer

from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.completing import complete_board
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.errors import InvalidRequestError
from icefarm_schemas import Transition, Used, What, utc_now

Since = Annotated[
    str | None, typer.Option(help="Only from then on: 2026-11-01, 2026-11-01T08:00, 90m, 12h, 7d.")
]
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment_of(text: str | None) -> datetime | None:
    """A time, or how long ago it was.

    Raises:
        InvalidRequestError: it is neither.
    """
    if text is None:
        return None
    try:
        if text[-1:] in _UNITS:
            return utc_now() - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{text!r} is no time; write 2026-11-01T08:00, 90m, 12h or 7d"
        ) from None


def _transitions(found: list[Transition]) -> Table:
    table = Table(
        Column("when", whole=True),
        Column("reservation", whole=True),
        Column("who", spare=1),
        Column("what"),
        Column("boards"),
    )
    for step in reversed(found):
        what = step.what.replace("_", " ") + (f": {step.why}" if step.why else "")
        by = f" (by {step.by})" if step.by not in (None, step.client) else ""
        colour = "red" if step.what is What.DEVICE_LOST else ""
        table.add(
            f"{step.at.astimezone():%Y-%m-%d %H:%M:%S}",
            step.reservation,
            step.client,
            Cell(what + by, colour),
            ", ".join(step.devices),
        )
    return table


def _used(kind: str, found: tuple[Used, ...]) -> Table:
    table = Table(
        Column(kind, whole=True),
        Column("reservations", whole=True, right=True),
        Column("hours", whole=True, right=True),
    )
    for used in found:
        name = used.name if used.agent is None else f"{used.name} ({used.agent})"
        table.add(name, str(used.reservations), f"{used.seconds / 3600:.2f}")
    return table


@command
def history(
    options: FarmOptions,
    client: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    board: Annotated[
        str | None, typer.Option(help="Only of this board.", autocompletion=complete_board)
    ] = None,
    reservation: Annotated[str | None, typer.Option(help="Only of this reservation.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who held what, when, and why it ended; the latest at the end.

    Example: icefarm history --board bench-1-1 --since 7d
    """
    moment = moment_of(since)
    with options.open() as farm:
        found = farm.history(
            client=client, board=board, reservation=reservation, since=moment, limit=limit
        )
        if as_json:
            for step in reversed(found):
                print_json(step.model_dump(mode="json", exclude_none=True))
        elif found:
            print_table(out, _transitions(found))
        else:
            out.print("Nothing has happened there.")


@command
def usage(options: FarmOptions, since: Since = None, as_json: Json = False) -> None:
    """Show how long boards were held, by user and by board.

    Example: icefarm usage --since 30d
    """
    moment = moment_of(since)
    with options.open() as farm:
        found = farm.usage(since=moment)
        if as_json:
            print_json(found.model_dump(mode="json", exclude_none=True))
        else:
            print_table(out, _used("user", found.clients))
            out.print()
            print_table(out, _used("board", found.devices))
