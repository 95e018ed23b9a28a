"""What the shell offers for the value of an option: names that the configuration or the farm has.

A farm is asked for about a second at most; where it does not answer, nothing is offered.
"""

import asyncio
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import typer

from icefarm.async_client import AsyncClient
from icefarm.cli.typed import find
from icefarm.configuration import locate, read_configuration
from icefarm.errors import FarmError
from icefarm.view import Agent, Board
from icefarm_schemas import ReservationState

_REACHING = 0.5
"""Seconds."""
_ASKING = 0.7


@dataclass(frozen=True)
class Seen:
    """What the farm has, and which user asks."""

    user: str
    agents: list[Agent]
    boards: list[Board]
    reservations: list[ReservationState]


def complete_farm(incomplete: str) -> list[str]:
    """Farms of the configuration file."""
    try:
        farms = read_configuration().farms
    except FarmError:
        return []
    return [farm for farm in farms if farm.startswith(incomplete)]


def complete_agent(ctx: typer.Context, incomplete: str) -> list[str]:
    """Agents of the farm."""
    return _complete(ctx, incomplete, lambda seen: (agent.name for agent in seen.agents))


def complete_board(ctx: typer.Context, incomplete: str) -> list[str]:
    """Boards of the farm."""
    return _complete(ctx, incomplete, lambda seen: (board.name for board in seen.boards))


def complete_reservation(ctx: typer.Context, incomplete: str) -> list[str]:
    """Reservations of this user."""
    return _complete(
        ctx,
        incomplete,
        lambda seen: (s.reservation for s in seen.reservations if s.client == seen.user),
    )


def complete_any_reservation(ctx: typer.Context, incomplete: str) -> list[str]:
    """Everybody's reservations."""
    return _complete(ctx, incomplete, lambda seen: (s.reservation for s in seen.reservations))


def complete_client(ctx: typer.Context, incomplete: str) -> list[str]:
    """Users who have reservations."""
    return _complete(ctx, incomplete, lambda seen: (s.client for s in seen.reservations))


def complete_behaviour(ctx: typer.Context, incomplete: str) -> list[str]:
    """What boards of the farm can do."""
    return _complete(
        ctx, incomplete, lambda seen: (name for board in seen.boards for name in board.behaviours)
    )


def _complete(
    ctx: typer.Context, incomplete: str, choose: Callable[[Seen], Iterable[str]]
) -> list[str]:
    # What goes wrong belongs to the command, not into the line that is being typed.
    logging.disable()
    try:
        seen = _look(find(ctx, "farm"), find(ctx, "name"))
    except (FarmError, TimeoutError, OSError):
        return []
    return sorted({name for name in choose(seen) if name.startswith(incomplete)})


def _look(farm: str | None, name: str | None) -> Seen:
    _reach(farm)

    async def look() -> Seen:
        async with asyncio.timeout(_ASKING), AsyncClient(farm, name=name) as client:
            return Seen(
                client.name,
                await client.agents(),
                await client.boards(),
                await client.reservations(everybody=True),
            )

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(look())


def _reach(farm: str | None) -> None:
    """Raise OSError or TimeoutError unless the broker can be reached soon.

    In a thread that nobody has to wait for: neither the look-up of a name nor a connection that
    somebody else is to give up can be ended early.
    """
    address, _ = locate(farm)
    reached: queue.Queue[bool] = queue.Queue()

    def reach() -> None:
        try:
            socket.create_connection((address.host, address.port), timeout=_REACHING).close()
        except OSError:
            reached.put(False)
        else:
            reached.put(True)

    threading.Thread(target=reach, daemon=True).start()
    try:
        if reached.get(timeout=_REACHING):
            return
    except queue.Empty:
        raise TimeoutError from None
    raise ConnectionError
