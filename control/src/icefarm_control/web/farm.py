"""Agents and boards: what the database has of them, and what the broker says besides."""

from icefarm_control.web import queries
from icefarm_control.web.state import Web
from icefarm_control.web.views import Agent, BoardDetails


async def agents(web: Web) -> list[Agent]:
    """All agents, by name.

    Raises:
        DatabaseAwayError: the database does not answer.
    """
    found = []
    for agent in await queries.agents(web.reading):
        state = web.seen.agents.get(agent.name)
        if state is not None:
            told = {"version": state.version, "behaviours": list(state.behaviours)}
            agent = agent.model_copy(update=told)
        found.append(agent)
    return found


async def agent(web: Web, name: str) -> Agent | None:
    """One agent; none when the farm does not know it.

    Raises:
        DatabaseAwayError: the database does not answer.
    """
    return next((found for found in await agents(web) if found.name == name), None)


async def board(web: Web, agent: str, name: str) -> BoardDetails | None:
    """One board; none when the farm does not know it.

    Raises:
        DatabaseAwayError: the database does not answer.
    """
    found = await queries.board(web.reading, agent, name)
    state = web.seen.boards.get((agent, name))
    if found is None or state is None:
        return found
    told: dict[str, object] = {"repairs": state.repairs, "port": state.port}
    if found.away_since is None:
        told["in_use"] = state.in_use
    # Else it is control that gives it its status, or the database has not heard of it yet.
    if found.status == state.status:
        told["since"] = state.since
    return found.model_copy(update=told)
