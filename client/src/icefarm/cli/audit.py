"""`icefarm audit`: what operators did, and what was refused them."""

from typing import Annotated, Any

import typer

from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.history import Since, moment_of
from icefarm.cli.operating import operating
from icefarm.cli.reservations import local
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm_schemas import MAX_AUDIT, AuditEntry

_MANNERS = ("deadline", "duration", "text")


@command
def audit(
    options: FarmOptions,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_AUDIT, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what operators did, and what was refused them; the latest at the end.

    Example: icefarm audit --since 7d
    """
    moment = moment_of(since)
    with operating(options) as farm:
        found = farm.operator.audit(since=moment, limit=limit)
    if as_json:
        for entry in reversed(found):
            print_json(entry.model_dump(mode="json", exclude_none=True))
    elif found:
        print_table(out, _table(found))
    else:
        print("No operator has done anything there.")


def _table(found: list[AuditEntry]) -> Table:
    table = Table(
        Column("when", whole=True),
        Column("who"),
        Column("what", whole=True),
        Column("about", least=10, spare=1),
        Column("outcome", least=12),
    )
    for entry in reversed(found):
        what = entry.operation.replace("_", " ") + (" (dry run)" if entry.dry_run else "")
        refused = entry.error is not None
        table.add(
            local(entry.at),
            entry.who,
            what,
            _in_words(entry.about),
            Cell(f"refused: {entry.outcome}" if refused else entry.outcome, "red" * refused),
        )
    return table


def _in_words(about: dict[str, Any]) -> str:
    """What was named, and then what was to be done with it."""
    named = [_name(key, value) for key, value in about.items() if key not in _MANNERS]
    return "; ".join(named + [f"{key} {about[key]}" for key in _MANNERS if key in about])


def _name(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return key if value is True else f"{key} {value}"
