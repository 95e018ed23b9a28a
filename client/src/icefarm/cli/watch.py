"""`icefarm watch`: a live screen of the farm, or a line of JSON for each change of it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.live import Live
from rich.text import Text

from icefarm.async_client import AsyncClient
from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.held import run
from icefarm.cli.keys import pressed
from icefarm.cli.show import agents_table, boards_table, in_order, reservations_table
from icefarm.cli.tables import Table, paint, takes_colour
from icefarm.errors import InvalidRequestError
from icefarm.view import Agent, Board
from icefarm_schemas import ReservationState

_TICK = 1.0
"""Seconds between two looks at the clock, by which the time left is shown."""
_REST = 0.1
"""Seconds between two changes of the screen: of many boards, many change in one second."""


@dataclass(frozen=True)
class Seen:
    """The farm at one moment."""

    is_connected: bool
    is_served: bool
    agents: list[Agent]
    boards: list[Board]
    reservations: list[ReservationState]


async def look(farm: AsyncClient) -> Seen:
    """The farm now."""
    return Seen(
        await farm.is_connected(),
        await farm.is_served(),
        await farm.agents(),
        await farm.boards(),
        await farm.reservations(everybody=True),
    )


@command
def watch(options: FarmOptions, as_json: Json = False) -> None:
    """Show agents, boards and everybody's reservations as they change, until q or Ctrl-C.

    With --json, a line for each change; its `kind` is agent, board, reservation, control or broker.

    Example: icefarm watch --json | jq 'select(.status == "broken")'
    """

    if not as_json and not out.is_terminal:
        raise InvalidRequestError("a live screen needs a terminal; give --json for lines")

    async def work() -> None:
        async with options.open_async() as farm:
            if as_json:
                await _print_changes(farm)
            else:
                await _show_screen(farm)

    run(work())


async def _show_screen(farm: AsyncClient) -> None:
    with pressed() as keys, Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_draw(await look(farm)), refresh=True)
            await asyncio.sleep(_REST)
            key = await _first(keys.get(), farm.changed())
            if key is not None and b"q" in key:
                return


async def _first(
    key: Coroutine[Any, Any, bytes], change: Coroutine[Any, Any, None]
) -> bytes | None:
    """Wait for a key, a change or the next second."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(key), asyncio.create_task(change)]
    try:
        await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        with suppress(asyncio.CancelledError):
            if task.result() is not None:
                return bytes(task.result())
    return None


def _draw(seen: Seen) -> Text:
    return Text.from_ansi(
        "\n".join(screen(seen, out.width, out.height, coloured=takes_colour(out))),
        no_wrap=True,
        overflow="crop",
    )


def screen(seen: Seen, width: int, height: int, *, coloured: bool) -> list[str]:
    """The lines of a screen of this size; of what does not fit, it says how much that is."""
    free = sum(board.status == "available" for board in seen.boards)
    headline = f"{datetime.now():%H:%M:%S}  {free} of {len(seen.boards)} boards available"
    trouble = _trouble(seen)
    lines = [headline[:width]]
    if trouble:
        lines.append(paint(trouble[:width], "red", coloured=coloured))
    parts: list[tuple[str, Sequence[Any], Callable[[Any], Table]]] = [
        ("agents", seen.agents, agents_table),
        ("reservations", in_order(seen.reservations), reservations_table),
        ("boards", seen.boards, boards_table),
    ]
    parts = [part for part in parts if part[1]]
    # Each part has an empty line before it and its titles, and q stands at the end.
    rooms = _share(height - len(lines) - 1 - 2 * len(parts), [len(rows) for _, rows, _ in parts])
    for (name, rows, tabulate), room in zip(parts, rooms, strict=True):
        more = len(rows) - room
        table = tabulate(rows if more <= 0 else rows[: room - 1])
        lines += ["", *table.lines(width, coloured=coloured)]
        if more > 0:
            lines.append(f"... and {more + 1} more {name}"[:width])
    return [*lines[: height - 1], "q ends this"]


def _trouble(seen: Seen) -> str:
    if not seen.is_connected:
        return "the broker is away; this is how it was before. Waiting for it ..."
    if not seen.is_served:
        return "control is not running, so nothing can be reserved. Waiting for it ..."
    return ""


def _share(room: int, wanted: list[int]) -> list[int]:
    """How many lines each part has: those that want little get it, the others share the rest."""
    given = [0] * len(wanted)
    for number in sorted(range(len(wanted)), key=wanted.__getitem__):
        left = sum(amount == 0 for amount in given)
        given[number] = max(1, min(wanted[number], (room - sum(given)) // left))
    return given


async def _print_changes(farm: AsyncClient) -> None:
    told: dict[tuple[str, ...], dict[str, Any]] = {}
    while True:
        now = _by_key(await look(farm))
        for key, value in now.items():
            if told.get(key) != value:
                print_json(value)
        for key in told.keys() - now.keys():
            print_json({**told[key], "status": "ended" if key[0] == "reservation" else "gone"})
        told = now
        await farm.changed()


def _by_key(seen: Seen) -> dict[tuple[str, ...], dict[str, Any]]:
    """What --json tells of, by what it is."""
    found: dict[tuple[str, ...], dict[str, Any]] = {
        ("broker",): {"kind": "broker", "online": seen.is_connected},
        ("control",): {"kind": "control", "online": seen.is_served},
    }
    for agent in seen.agents:
        found["agent", agent.name] = {"kind": "agent", **asdict(agent)}
    for board in seen.boards:
        found["board", board.agent, board.name] = {"kind": "board", **asdict(board)}
    for state in seen.reservations:
        value = {"kind": "reservation", **state.model_dump(mode="json", exclude_none=True)}
        found["reservation", state.reservation] = value
    return found
