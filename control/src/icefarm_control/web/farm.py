"""Agents: what the database has of them and their boards, and what the broker says besides."""

from icefarm_control.web import queries
from icefarm_control.web.state import Web
from icefarm_control.web.views import Agent


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
