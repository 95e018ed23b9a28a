"""`icefarm boards restart`, `forget` and `note`."""

from typing import Annotated

import typer

from icefarm.cli.app import FarmOptions, Json
from icefarm.cli.completing import complete_board
from icefarm.cli.operating import Deed, DryRun, Manner, Yes, users_of
from icefarm.cli.show import boards
from icefarm.client import Client
from icefarm_schemas import ConcernedDevice

Names = Annotated[
    list[str],
    typer.Argument(
        help="Boards, as `icefarm boards` lists them, or AGENT/BOARD.",
        autocompletion=complete_board,
    ),
]


@boards.command("restart")
def restart(
    options: FarmOptions,
    names: Names,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Start boards anew where they are, whoever holds them.

    Example: icefarm boards restart bench-1-3
    """

    def describe(farm: Client, board: ConcernedDevice, would: bool) -> str:
        return _describe(farm, board, "would be started anew" if would else "is started anew")

    Deed(
        lambda farm, dry: farm.operator.restart_boards(*names, dry_run=dry),
        describe,
        "Start anew?",
    ).do(options, Manner(dry_run, as_json, yes))


@boards.command("forget")
def forget(
    options: FarmOptions,
    names: Names,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove boards and their notes, and let their agents look for them anew.

    What is still plugged in is back a moment later, and its holder goes on. What an agent that is
    away has left is gone.

    Example: icefarm boards forget bench-1-3
    """

    def describe(farm: Client, board: ConcernedDevice, would: bool) -> str:
        return _describe(farm, board, "would be forgotten" if would else "is forgotten")

    Deed(lambda farm, dry: farm.operator.forget(*names, dry_run=dry), describe, "Forget?").do(
        options, Manner(dry_run, as_json, yes)
    )


@boards.command("note")
def note(
    options: FarmOptions,
    names: Names,
    text: Annotated[str, typer.Option(help='What to write; "" removes what is written.')],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write something about boards, in the place of what is written there, for all to see.

    Example: icefarm boards note bench-1-3 --text "its USB cable is loose"
    """

    def describe(farm: Client, board: ConcernedDevice, would: bool) -> str:
        name = f"{board.agent}/{board.device}"
        if text:
            return f"{name} {'would be' if would else 'is'} noted: {text}"
        return f"{name} {'would have' if would else 'has'} no note"

    Deed(lambda farm, dry: farm.operator.note(*names, text=text, dry_run=dry), describe).do(
        options, Manner(dry_run, as_json)
    )


def _describe(farm: Client, board: ConcernedDevice, what: str) -> str:
    used = users_of(farm, () if board.reservation is None else (board.reservation,))
    return f"{board.agent}/{board.device} {what}; {used}"
