"""`icefarm boards`, `agents` and `reservations`: what the farm has, and who holds it."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from icefarm.cli.app import FarmOptions, Group, Json, out, print_json
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.view import Agent, Board
from icefarm_schemas import AgentStatus, ReservationState, ReservationStatus, utc_now

_COLOURS = {
    "available": "green",
    "ready": "cyan",
    "preparing": "yellow",
    "starting": "yellow",
    "cleaning": "yellow",
    "draining": "yellow",
    "broken": "red",
    "away": "red",
}
_AGENTS = {
    AgentStatus.ONLINE: Cell("online", "green"),
    AgentStatus.DRAINING: Cell("draining", "yellow"),
    AgentStatus.OFFLINE: Cell("away", "red"),
}
_SOON = timedelta(minutes=5)


def boards_table(boards: Iterable[Board]) -> Table:
    """Boards as people want to see them."""
    table = Table(
        Column("board", whole=True),
        Column("agent", spare=2),
        Column("status", least=10),
        Column("behaviour", least=10, spare=1),
        Column("reservation", whole=True),
        Column("product", least=12, spare=3),
    )
    for board in boards:
        said = "; ".join(text for text in (board.detail, board.note) if text)
        status = f"{board.status}: {said}" if said else board.status
        table.add(
            board.name,
            board.agent,
            Cell(status, _COLOURS.get(board.status, "")),
            board.behaviour or "",
            board.reservation or "",
            board.product,
        )
    return table


def agents_table(agents: Iterable[Agent]) -> Table:
    """Agents as people want to see them."""
    table = Table(
        Column("agent", whole=True),
        Column("status", whole=True),
        Column("boards", right=True),
        Column("version", spare=1),
    )
    for agent in agents:
        table.add(agent.name, _AGENTS[agent.status], str(agent.boards), agent.version or "")
    return table


def reservations_table(reservations: Iterable[ReservationState]) -> Table:
    """Reservations as people want to see them."""
    table = Table(
        Column("reservation", whole=True),
        Column("holder"),
        Column("time left", whole=True, right=True),
        Column("does", least=10, spare=1),
        Column("boards", least=14),
    )
    for state in reservations:
        table.add(
            state.reservation,
            state.client,
            _time_left(state),
            state.behaviour,
            _whereabouts(state),
        )
    return table


def in_order(reservations: Iterable[ReservationState]) -> list[ReservationState]:
    """Those that have boards, the oldest first, and then the queue."""
    return sorted(reservations, key=lambda state: (state.position or 0, state.created_at))


def _time_left(state: ReservationState) -> Cell:
    until = state.waits_until if state.position is not None else state.expires_at
    if until is None:
        return Cell("")
    left = until - utc_now()
    hours, seconds = divmod(max(0, round(left.total_seconds())), 3600)
    text = f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
    return Cell(text, "yellow" if left < _SOON else "")


def _whereabouts(state: ReservationState) -> Cell:
    if state.status is ReservationStatus.QUEUED:
        return Cell(f"{state.position} in the queue", "yellow")
    return Cell(", ".join(device.device for device in state.devices))


@Group
def boards(options: FarmOptions, as_json: Json = False) -> None:
    """List the boards of the farm.

    Example: icefarm boards --json
    """
    with options.open() as farm:
        found = farm.boards()
    if as_json:
        for board in found:
            print_json(asdict(board))
    elif found:
        print_table(out, boards_table(found))
        free = sum(board.status == "available" for board in found)
        print(f"{free} of {len(found)} available")
    else:
        print("The farm has no boards; is an agent running? `icefarm agents` lists them.")


@Group
def agents(options: FarmOptions, as_json: Json = False) -> None:
    """List the agents of the farm: the machines that have boards.

    Example: icefarm agents
    """
    with options.open() as farm:
        found = farm.agents()
    if as_json:
        for agent in found:
            print_json(asdict(agent))
    elif found:
        print_table(out, agents_table(found))
    else:
        print("The farm has no agents yet.")


@Group
def reservations(
    options: FarmOptions,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Those of all users, not only yours.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List your reservations and what you have in the queue, with the time that is left.

    Example: icefarm reservations --everybody
    """
    with options.open() as farm:
        found, whose = farm.reservations(everybody=everybody), farm.name
    if as_json:
        for state in found:
            print_json(state.model_dump(mode="json", exclude_none=True))
    elif found:
        print_table(out, reservations_table(in_order(found)))
    else:
        print("Nobody holds anything." if everybody else f"{whose} holds nothing.")
