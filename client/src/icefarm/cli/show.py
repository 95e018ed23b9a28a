"""`icefarm boards`, `agents` and `watch`: what the farm has and does."""

from dataclasses import asdict
from datetime import datetime
from typing import NoReturn

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from icefarm.cli.app import Broker, Json, Name, app, open_farm, out, print_json
from icefarm.client import Client
from icefarm.view import Agent, Board

_COLOURS = {
    "available": "green",
    "ready": "cyan",
    "preparing": "yellow",
    "starting": "yellow",
    "cleaning": "yellow",
    "broken": "red",
    "away": "red",
}


def boards_table(boards: list[Board]) -> Table:
    """Boards as people want to see them."""
    table = Table("board", "agent", "status", "behaviour", "reservation", "product")
    for board in boards:
        status = Text(board.status, style=_COLOURS.get(board.status, ""))
        if board.detail:
            status.append(f": {board.detail}")
        table.add_row(
            Text(board.name),
            Text(board.agent),
            status,
            Text(board.behaviour or ""),
            Text(board.reservation or ""),
            Text(board.product),
        )
    return table


def agents_table(agents: list[Agent]) -> Table:
    """Agents as people want to see them."""
    table = Table("agent", "status", "boards", "version")
    for agent in agents:
        status = Text("online", style="green") if agent.online else Text("away", style="red")
        table.add_row(Text(agent.name), status, str(agent.boards), agent.version or "")
    return table


@app.command()
def boards(broker: Broker = None, name: Name = None, as_json: Json = False) -> None:
    """List the boards of the farm.

    Example: icefarm boards --json
    """
    with open_farm(broker, name) as farm:
        found = farm.boards()
        if as_json:
            for board in found:
                print_json(asdict(board))
        elif found:
            out.print(boards_table(found))
            free = sum(board.status == "available" for board in found)
            out.print(f"{free} of {len(found)} available")
        else:
            out.print("The farm has no boards; is an agent running? `icefarm agents` lists them.")


@app.command()
def agents(broker: Broker = None, name: Name = None, as_json: Json = False) -> None:
    """List the agents of the farm: the machines that have boards.

    Example: icefarm agents
    """
    with open_farm(broker, name) as farm:
        found = farm.agents()
        if as_json:
            for agent in found:
                print_json(asdict(agent))
        elif found:
            out.print(agents_table(found))
        else:
            out.print("The farm has no agents yet.")


@app.command()
def watch(broker: Broker = None, name: Name = None, as_json: Json = False) -> None:
    """Show agents and boards as they change, until Ctrl-C; with --json, a line for each change.

    Example: icefarm watch --json | jq 'select(.status == "broken")'
    """
    with open_farm(broker, name) as farm:
        if as_json:
            _print_changes(farm)
        with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
            while True:
                at = "" if farm.is_served() else "  [red]control is not running[/red]"
                live.update(
                    Group(
                        Text.from_markup(f"{datetime.now():%H:%M:%S}{at}"),
                        agents_table(farm.agents()),
                        boards_table(farm.boards()),
                    ),
                    refresh=True,
                )
                farm.changed()


def _print_changes(farm: Client) -> NoReturn:
    shown: dict[tuple[str, str], Board] = {}
    while True:
        for board in farm.boards():
            key = (board.agent, board.name)
            if shown.get(key) != board:
                shown[key] = board
                print_json(asdict(board))
        farm.changed()
