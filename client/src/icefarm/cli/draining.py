"""`icefarm agents drain`, `resume`, `restart` and `forget`."""

import time
from typing import Annotated

import typer

from icefarm.cli.app import FarmOptions, Json
from icefarm.cli.completing import complete_agent
from icefarm.cli.held import say
from icefarm.cli.operating import (
    Deed,
    DryRun,
    Manner,
    Yes,
    check_askable,
    operating,
    users_of,
)
from icefarm.cli.reservations import local
from icefarm.cli.show import agents
from icefarm.client import Client
from icefarm.errors import InvalidRequestError, TimedOutError
from icefarm_schemas import (
    DEFAULT_DRAIN_DEADLINE,
    MAX_DRAIN_DEADLINE,
    AgentStatus,
    ConcernedAgent,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Agents, as `icefarm agents` lists them.", autocompletion=complete_agent),
]
All = Annotated[bool, typer.Option("--all", help="All agents that are there.")]
Deadline = Annotated[
    float,
    typer.Option(
        help="Seconds that holders have left at most.",
        min=0,
        max=MAX_DRAIN_DEADLINE,
        metavar="SECONDS",
    ),
]

_RETURN = 120.0
"""Seconds that an agent may take to be back after its deadline, when others are to follow."""
_LOOK = 0.2


@agents.command("drain")
def drain(
    options: FarmOptions,
    names: Names = None,
    everything: All = False,
    deadline: Deadline = DEFAULT_DRAIN_DEADLINE,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give the boards of agents to nobody any more, until they are resumed.

    Who holds some is told, and may go on until the deadline; then they are taken back, and the
    agent's machine can be switched off.

    Example: icefarm agents drain bench-1 --deadline 3600
    """
    _check(names, everything)

    def describe(farm: Client, agent: ConcernedAgent, would: bool) -> str:
        verb = "would drain" if would else "drains"
        until = local(agent.drains_until)
        return f"{agent.agent} {verb} until {until}; {users_of(farm, agent.reservations)}"

    Deed(
        lambda farm, dry: farm.operator.drain(
            *names or (), everything=everything, deadline=deadline, dry_run=dry
        ),
        describe,
        "Drain?",
    ).do(options, Manner(dry_run, as_json, yes))


@agents.command("resume")
def resume(
    options: FarmOptions,
    names: Names = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that are drained, or are to be restarted.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let agents take reservations again that were drained, or were to be restarted.

    Example: icefarm agents resume bench-1
    """
    _check(names, everything)

    def describe(farm: Client, agent: ConcernedAgent, would: bool) -> str:
        return f"{agent.agent} {'would take' if would else 'takes'} reservations again"

    Deed(
        lambda farm, dry: farm.operator.resume(*names or (), everything=everything, dry_run=dry),
        describe,
    ).do(options, Manner(dry_run, as_json))


@agents.command("restart")
def restart(
    options: FarmOptions,
    names: Names = None,
    everything: All = False,
    deadline: Deadline = DEFAULT_DRAIN_DEADLINE,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="One after the other: each when the last is back.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Restart agents, each as soon as nobody holds its boards, or at the deadline.

    Who still holds some by then goes on when the agent is back. With --rolling, it waits for that
    before it restarts the next one.

    Example: icefarm agents restart --all --rolling --deadline 60
    """
    _check(names, everything)

    def act(farm: Client, dry: bool) -> list[ConcernedAgent]:
        return farm.operator.restart(
            *names or (), everything=everything, deadline=deadline, dry_run=dry
        )

    deed = Deed(act, _describe_restart, "Restart?")
    manner = Manner(dry_run, as_json, yes)
    if dry_run or not rolling:
        deed.do(options, manner)
        return
    check_askable(manner)
    with operating(options) as farm:
        if yes or deed.is_wanted(farm):
            for agent in act(farm, True):
                _restart_and_wait(farm, agent.agent, deadline, deed, manner)


@agents.command("forget")
def forget(
    options: FarmOptions,
    names: Annotated[
        list[str],
        typer.Argument(
            help="Agents, as `icefarm agents` lists them.", autocompletion=complete_agent
        ),
    ],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove agents that will not come back, with their boards, of which nobody may hold one.

    Example: icefarm agents forget bench-1
    """

    def describe(farm: Client, agent: ConcernedAgent, would: bool) -> str:
        return f"{agent.agent} {'would be' if would else 'is'} forgotten, with its boards"

    Deed(
        lambda farm, dry: farm.operator.forget_agents(*names, dry_run=dry), describe, "Forget?"
    ).do(options, Manner(dry_run, as_json, yes))


def _describe_restart(farm: Client, agent: ConcernedAgent, would: bool) -> str:
    verb = "would restart" if would else "restarts"
    if not agent.reservations:
        return f"{agent.agent} {verb} at once; nobody uses it"
    by = local(agent.drains_until)
    return f"{agent.agent} {verb} by {by} at the latest; {users_of(farm, agent.reservations)}"


def _check(names: list[str] | None, everything: bool) -> None:
    if bool(names) == everything:
        raise InvalidRequestError("say which: names of agents, or --all")


def _restart_and_wait(
    farm: Client, name: str, deadline: float, deed: Deed[ConcernedAgent], manner: Manner
) -> None:
    """Restart an agent, and return when another process of it is online.

    Raises:
        TimedOutError: it has not come back.
    """
    before = _online(farm, name)
    deed.tell(farm, farm.operator.restart(name, deadline=deadline), manner)
    patience = deadline + _RETURN
    began = time.monotonic()
    while _online(farm, name) in (None, before):
        if time.monotonic() - began > patience:
            raise TimedOutError(
                f"{name} is not back after {patience:g} s, so no further agent is restarted; look "
                "at its machine, and at `icefarm agents`"
            )
        time.sleep(_LOOK)
    say(f"{name} is back")


def _online(farm: Client, name: str) -> str | None:
    """Which process of the agent takes reservations, if one does."""
    found = {agent.name: agent for agent in farm.agents()}.get(name)
    return None if found is None or found.status is not AgentStatus.ONLINE else found.boot_id
