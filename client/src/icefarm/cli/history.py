"""`icefarm history` and `usage`: who held what, when, why it ended, and how much it comes to."""

from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from icefarm.cli.app import Broker, Json, Name, app, fail, open_farm, out, print_json
from icefarm.errors import InvalidRequestError
from icefarm_schemas import Transition, Used, utc_now

Since = Annotated[
    str | None, typer.Option(help="Only from then on: 2026-11-01, 2026-11-01T08:00, 90m, 12h, 7d.")
]
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _moment(text: str | None) -> datetime | None:
    """A time, or how long ago it was."""
    if text is None:
        return None
    try:
        if text[-1:] in _UNITS:
            return utc_now() - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        fail(InvalidRequestError(f"{text!r} is no time; write 2026-11-01T08:00, 90m, 12h or 7d"))


def _transitions(found: list[Transition]) -> Table:
    table = Table("when", "reservation", "who", "what", "boards")
    for step in reversed(found):
        what = step.what.replace("_", " ") + (f": {step.why}" if step.why else "")
        by = f" (by {step.by})" if step.by not in (None, step.client) else ""
        table.add_row(
            f"{step.at.astimezone():%Y-%m-%d %H:%M:%S}",
            Text(step.reservation),
            Text(step.client),
            Text(what + by),
            Text(", ".join(step.devices)),
        )
    return table


def _used(kind: str, found: tuple[Used, ...]) -> Table:
    table = Table(kind, "reservations", "hours")
    for used in found:
        name = used.name if used.agent is None else f"{used.name} ({used.agent})"
        table.add_row(Text(name), str(used.reservations), f"{used.seconds / 3600:.2f}")
    return table


@app.command()
def history(
    client: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    board: Annotated[str | None, typer.Option(help="Only of this board.")] = None,
    reservation: Annotated[str | None, typer.Option(help="Only of this reservation.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Show who held what, when, and why it ended; the latest at the end.

    Example: icefarm history --board bench-1-1 --since 7d
    """
    moment = _moment(since)
    with open_farm(broker, name) as farm:
        found = farm.history(
            client=client, board=board, reservation=reservation, since=moment, limit=limit
        )
        if as_json:
            for step in reversed(found):
                print_json(step.model_dump(mode="json", exclude_none=True))
        elif found:
            out.print(_transitions(found))
        else:
            out.print("Nothing has happened there.")


@app.command()
def usage(
    since: Since = None, broker: Broker = None, name: Name = None, as_json: Json = False
) -> None:
    """Show how long boards were held, by user and by board.

    Example: icefarm usage --since 30d
    """
    moment = _moment(since)
    with open_farm(broker, name) as farm:
        found = farm.usage(since=moment)
        if as_json:
            print_json(found.model_dump(mode="json", exclude_none=True))
        else:
            out.print(_used("user", found.clients))
            out.print(_used("board", found.devices))
