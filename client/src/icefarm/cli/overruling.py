"""`icefarm reservations end` and `extend`: what operators do with those of others."""

from typing import Annotated, Any

import typer

from icefarm.cli.app import FarmOptions, Json
from icefarm.cli.completing import complete_any_reservation, complete_board, complete_client
from icefarm.cli.operating import Deed, DryRun, Manner, Yes
from icefarm.cli.reservations import Duration, local
from icefarm.cli.show import reservations
from icefarm.client import Client
from icefarm.errors import InvalidRequestError
from icefarm_schemas import DEFAULT_DURATION, ReservationState, ReservationStatus

Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--reservation",
        help="This one, whoever has it; repeat it for several.",
        autocompletion=complete_any_reservation,
    ),
]
Boards = Annotated[
    list[str] | None,
    typer.Option(
        "--board",
        help="That of this board (or AGENT/BOARD); repeat it for several.",
        autocompletion=complete_board,
    ),
]
Whose = Annotated[
    str | None, typer.Option(help="All of this user.", autocompletion=complete_client)
]
All = Annotated[bool, typer.Option("--all", help="Everybody's.")]


@reservations.command("end")
def end(
    options: FarmOptions,
    reservation: Ids = None,
    board: Boards = None,
    client: Whose = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End reservations, whoever has them, also queued ones; their holders are told.

    With --board, only these boards leave their reservations, which go on with their others.

    Example: icefarm reservations end --client ann --dry-run
    """
    chosen = _chosen(reservation, board, client, everything)

    def describe(farm: Client, state: ReservationState, would: bool) -> str:
        names = ", ".join(device.device for device in state.devices) or "queued"
        if state.status is ReservationStatus.ENDED:
            what = "would be ended" if would else "is ended"
        else:
            what = "would keep" if would else "keeps"
        return f"{state.reservation} of {state.client} {what}: {names}"

    Deed(
        lambda farm, dry: farm.operator.end(*reservation or (), **chosen, dry_run=dry),
        describe,
        "End?",
    ).do(options, Manner(dry_run, as_json, yes))


@reservations.command("extend")
def extend(
    options: FarmOptions,
    reservation: Ids = None,
    board: Boards = None,
    client: Whose = None,
    everything: All = False,
    duration: Duration = DEFAULT_DURATION,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let reservations end so many seconds from now, whoever has them.

    Example: icefarm reservations extend --board bench-1-3 --duration 7200
    """
    chosen = _chosen(reservation, board, client, everything)

    def describe(farm: Client, state: ReservationState, would: bool) -> str:
        names = ", ".join(device.device for device in state.devices)
        what = f"{'would end' if would else 'now ends'} {local(state.expires_at)}"
        return f"{state.reservation} of {state.client} {what}: {names}"

    Deed(
        lambda farm, dry: farm.operator.extend(
            *reservation or (), **chosen, duration=duration, dry_run=dry
        ),
        describe,
    ).do(options, Manner(dry_run, as_json))


def _chosen(
    reservations: list[str] | None, boards: list[str] | None, client: str | None, everything: bool
) -> dict[str, Any]:
    """All but the ids, as the library takes them."""
    if bool(reservations) + bool(boards) + (client is not None) + everything != 1:
        raise InvalidRequestError(
            "say which, by one of --reservation, --board, --client and --all; "
            "`icefarm reservations --everybody` lists them"
        )
    return {"boards": boards or None, "client": client, "everything": everything}
