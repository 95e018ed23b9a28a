"""`icefarm logs`: what agents log, as they publish it."""

import asyncio
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import typer

from icefarm.async_client import AsyncClient
from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.completing import complete_agent, complete_any_reservation, complete_board
from icefarm.cli.held import say
from icefarm.cli.operating import for_operators
from icefarm.cli.reservations import local
from icefarm.cli.tables import on_one_line, paint, takes_colour
from icefarm.cli.visiting import presence_of_visitor
from icefarm.configuration import find_address
from icefarm.errors import InvalidRequestError, from_broker
from icefarm_broker import (
    BrokerError,
    Connection,
    Disconnected,
    NobodyListensError,
    NotAuthorisedError,
    Received,
    Synced,
)
from icefarm_broker.service import run_service
from icefarm_schemas import (
    LogLevel,
    LogLine,
    OperatorOperation,
    ProbeRequest,
    check_name,
)
from icefarm_schemas.topics import (
    AgentStateTopic,
    DeviceStateTopic,
    LogTopic,
    OperatorTopic,
)

_PATIENCE = 3.0
"""Seconds for the first connection."""
_LEVELS = list(LogLevel)
_COLOURS = {LogLevel.ERROR: "red", LogLevel.WARNING: "yellow"}


@dataclass
class _Wanted:
    """Which lines are asked for, and what the farm has of that."""

    agents: tuple[str, ...]
    board: str | None
    reservation: str | None
    level: LogLevel
    known_agents: set[str] = field(default_factory=set)
    known_boards: set[str] = field(default_factory=set)

    def subscriptions(self, root: str) -> list[str]:
        """What is published by these agents."""
        if not self.agents:
            return [LogTopic.pattern(root)]
        return [LogTopic.pattern(root, agent=agent) for agent in self.agents]

    def snapshots(self, root: str) -> list[str]:
        """What shows whether there are such agents, and such a board."""
        agents = [AgentStateTopic.pattern(root)]
        if self.board is None:
            return agents
        return [*agents, DeviceStateTopic.pattern(root, device=self.board)]

    def takes(self, line: LogLine) -> bool:
        """Whether it is one of them."""
        return (
            self.board in (None, line.device)
            and self.reservation in (None, line.reservation)
            and _LEVELS.index(line.level) >= _LEVELS.index(self.level)
        )

    def greeting(self) -> Iterator[str]:
        """Whom it listens to, and what the farm does not have."""
        there = ", ".join(sorted(self.known_agents)) or "none"
        unknown = [agent for agent in self.agents if agent not in self.known_agents]
        if unknown:
            yield f"The farm has no agent {', '.join(unknown)} now; it has: {there}"
        if self.board is not None and self.board not in self.known_boards:
            yield f"The farm has no board {self.board} now; `icefarm boards` lists them"
        yield f"Following the logs of {', '.join(self.agents) or 'all agents'}; Ctrl-C ends it."


@command
def logs(
    options: FarmOptions,
    agents: Annotated[
        list[str] | None,
        typer.Argument(help="Only of these agents.", autocompletion=complete_agent),
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(help="Only lines about this board.", autocompletion=complete_board),
    ] = None,
    reservation: Annotated[
        str | None,
        typer.Option(
            help="Only lines about this reservation.", autocompletion=complete_any_reservation
        ),
    ] = None,
    level: Annotated[
        LogLevel, typer.Option(help="Only lines that matter at least so much.")
    ] = LogLevel.INFO,
    as_json: Json = False,
) -> None:
    """Follow what agents log, until Ctrl-C; each line names its agent.

    It tells what happens from now on, and goes on when the broker was away. What an agent logged
    before is in the journal of its machine. It is for operators.

    Example: icefarm logs bench-1 --level warning
    """
    try:
        for name in (*(agents or ()), *([] if board is None else [board])):
            check_name(name)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    wanted = _Wanted(tuple(agents or ()), board, reservation, level)

    async def main() -> None:
        try:
            await _follow(options, wanted, as_json)
        except NotAuthorisedError as error:
            raise for_operators(options) from error
        except BrokerError as error:
            raise from_broker(error) from error

    sys.exit(run_service(main))


async def _follow(options: FarmOptions, wanted: _Wanted, as_json: bool) -> None:
    address = find_address(options.farm)
    client = AsyncClient(str(address), name=options.name).name
    session = secrets.token_hex(4)
    connection = Connection(
        address,
        f"client-{client}-{session}",
        presence_of_visitor(client, session),
        subscriptions=wanted.subscriptions(address.root),
        snapshots=wanted.snapshots(address.root),
        patience=_PATIENCE,
        strict=options.debug,
    )
    async with connection:
        await _check_operator(connection, client, session)
        is_new, is_away = True, False
        async for happening in connection:
            match happening:
                case Received(LogTopic(agent), LogLine() as line) if wanted.takes(line):
                    # Where nobody reads them, this must not hold up the connection.
                    await asyncio.to_thread(_show, agent, line, as_json)
                case Received(AgentStateTopic(agent)):
                    wanted.known_agents.add(agent)
                case Received(DeviceStateTopic(_, device)):
                    wanted.known_boards.add(device)
                case Disconnected(why):
                    is_away = True
                    say(f"The broker is away: {why}. Waiting for it ...")
                case Synced() if is_new:
                    is_new = False
                    for text in wanted.greeting():
                        say(text)
                case Synced() if is_away:
                    is_away = False
                    say("The broker is back; lines from before may be missing.")


async def _check_operator(connection: Connection, client: str, session: str) -> None:
    """Raise NotAuthorisedError for others, to whom the broker would say nothing, and no lines."""
    try:
        await connection.publish(
            OperatorTopic(client, session, OperatorOperation.PROBE), ProbeRequest(), expiry=1
        )
    except NobodyListensError:
        return  # Control is away, which agents' logs may be about.


def _show(agent: str, line: LogLine, as_json: bool) -> None:
    if as_json:
        print_json({"agent": agent, **line.model_dump(mode="json", exclude_none=True)})
        return
    level = paint(f"{line.level:<7}", _COLOURS.get(line.level, ""), coloured=takes_colour(out))
    about = agent if line.device is None else f"{agent}/{line.device}"
    if line.reservation is not None:
        about += f" ({line.reservation})"
    for text in line.text.splitlines():
        print(f"{local(line.at)} {level} {about}: {on_one_line(text)}", flush=True)
