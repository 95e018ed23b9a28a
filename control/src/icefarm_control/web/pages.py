"""What each page shows. Each is served as HTML, and under /live as the events of its changes."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import HTTPException, Request, status

from icefarm_control.web import farm, plots, queries
from icefarm_control.web.changes import About
from icefarm_control.web.queries import PAGE, BoardFilter, BoardOrder
from icefarm_control.web.seen import lines_of, state_of
from icefarm_control.web.state import Web
from icefarm_schemas import What

Context = dict[str, Any]

_PERIODS = {"day": 1, "week": 7, "month": 30, "quarter": 91}
"""Of usage, in days."""
_FEW = 8
_LINES = 100
"""Of a log."""


@dataclass(frozen=True)
class Page:
    """A page: where it is, its template, what its template is told, and what it shows alone."""

    path: str
    template: str
    gather: Callable[[Web, Request], Awaitable[Context]]
    shows: Callable[[Request], Collection[About]]


PAGES: list[Page] = []


def _nothing_alone(request: Request) -> Collection[About]:
    return ()


def _page(
    path: str, template: str, shows: Callable[[Request], Collection[About]] = _nothing_alone
) -> Callable[..., Any]:
    def register(
        gather: Callable[[Web, Request], Awaitable[Context]],
    ) -> Callable[[Web, Request], Awaitable[Context]]:
        PAGES.append(Page(path, template, gather, shows))
        return gather

    return register


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else default


def _text(request: Request, name: str) -> str:
    # Postgres has no such character in its texts.
    return request.query_params.get(name, "").replace("\0", "").strip()


def _not_found(what: str) -> HTTPException:
    return HTTPException(status.HTTP_404_NOT_FOUND, what)


def _query(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.query_params.items() if value}


@_page("/", "overview.html")
async def overview(web: Web, request: Request) -> Context:
    """How many boards there are for what, what is wrong, and what happened last."""
    reading = web.reading
    return {
        "title": "Overview",
        "availability": await queries.availability(reading),
        "agents": await farm.agents(web),
        "broken": await queries.boards(reading, BoardFilter(status="broken"), limit=_FEW),
        "queue": await queries.reservations(reading, status="queued", limit=_FEW),
        "steps": await queries.steps(reading, limit=_FEW),
    }


@_page("/agents", "agents.html")
async def agents(web: Web, request: Request) -> Context:
    """All agents."""
    search = _text(request, "search").lower()
    found = [agent for agent in await farm.agents(web) if search in agent.name.lower()]
    return {"title": "Agents", "agents": found}


async def _boards(web: Web, request: Request, **fixed: str) -> Context:
    """A table of boards, filtered and sorted as the query says."""
    asked = {name: _text(request, name) for name in BoardFilter.__dataclass_fields__} | fixed
    wish = _text(request, "order")
    descending = wish.startswith("-")
    known = {order.value: order for order in BoardOrder}
    order = known.get(wish.removeprefix("-"), BoardOrder.NAME)
    page = max(_number(request, "page", 1), 1)
    found = await queries.boards(
        web.reading,
        BoardFilter(**asked),
        order=order,
        descending=descending,
        offset=(page - 1) * PAGE,
    )
    return {
        "boards": found,
        "asked": asked,
        "fixed": fixed,
        "order": order.value,
        "descending": descending,
        "page": page,
        "pages": max(1, -(-found.total // PAGE)),
        "availability": await queries.availability(web.reading),
        "query": _query(request),
    }


@_page("/boards", "boards.html")
async def boards(web: Web, request: Request) -> Context:
    """All boards with who holds them."""
    return {"title": "Boards"} | await _boards(web, request)


def _of_agent(request: Request) -> Collection[About]:
    return (lines_of(request.path_params["agent"]),)


@_page("/agents/{agent}", "agent.html", _of_agent)
async def agent(web: Web, request: Request) -> Context:
    """An agent and its boards."""
    name = request.path_params["agent"]
    found = await farm.agent(web, name)
    if found is None:
        raise _not_found(f"the farm has no agent {name!r}")
    return {
        "title": name,
        "agent": found,
        "lines": web.seen.lines(name)[:_LINES],
    } | await _boards(web, request, agent=name)


def _of_board(request: Request) -> Collection[About]:
    agent, board = request.path_params["agent"], request.path_params["board"]
    return (lines_of(agent, board), state_of(agent, board))


@_page("/boards/{agent}/{board}", "board.html", _of_board)
async def board(web: Web, request: Request) -> Context:
    """A board, who holds it, and what happened to it."""
    agent, name = request.path_params["agent"], request.path_params["board"]
    found = await farm.board(web, agent, name)
    steps = await queries.steps(web.reading, board=name, agent=agent)
    if found is None and not steps:
        raise _not_found(f"the agent {agent!r} has no board {name!r}")
    lines = web.seen.lines(agent, name)[:_LINES]
    return {"title": name, "agent_name": agent, "board": found, "steps": steps, "lines": lines}


@_page("/reservations", "reservations.html")
async def reservations(web: Web, request: Request) -> Context:
    """Who holds boards, and who waits for some."""
    page = max(_number(request, "page", 1), 1)
    state = _text(request, "status")
    found = await queries.reservations(
        web.reading,
        status=state if state in ("active", "queued", "ended") else "",
        search=_text(request, "search"),
        offset=(page - 1) * PAGE,
    )
    return {
        "title": "Reservations",
        "reservations": found,
        "page": page,
        "pages": max(1, -(-found.total // PAGE)),
        "query": _query(request),
    }


@_page("/reservations/{reservation}", "reservation.html")
async def reservation(web: Web, request: Request) -> Context:
    """One reservation and what happened to it."""
    wanted = request.path_params["reservation"]
    found = await queries.reservation(web.reading, wanted)
    if found is None:
        raise _not_found(f"there is no reservation {wanted!r}")
    return {
        "title": f"Reservation {wanted}",
        "reservation": found,
        "steps": await queries.steps(web.reading, reservation=wanted),
    }


@_page("/clients/{client}", "client.html")
async def client(web: Web, request: Request) -> Context:
    """What a client holds and waits for, and what it did."""
    name = request.path_params["client"]
    return {
        "title": name,
        "client": name,
        "now": await queries.reservations(web.reading, client=name, limit=1000),
        "ended": await queries.reservations(web.reading, client=name, status="ended", limit=_FEW),
        "steps": await queries.steps(web.reading, client=name),
    }


@_page("/history", "history.html")
async def history(web: Web, request: Request) -> Context:
    """What happened, and who used how much."""
    period = _text(request, "period")
    usage = await web.usage.of_last(timedelta(days=_PERIODS.get(period, _PERIODS["week"])))
    before = _number(request, "before", 0)
    what = _text(request, "what")
    steps = await queries.steps(
        web.reading,
        client=_text(request, "client"),
        board=_text(request, "board"),
        reservation=_text(request, "reservation"),
        what=what,
        before=before or None,
    )
    return {
        "title": "History",
        "usage": usage,
        "period": period if period in _PERIODS else "week",
        "periods": list(_PERIODS),
        "time_plot": plots.over_time(usage.over_time),
        "steps": steps,
        "older": steps[-1].number if len(steps) == PAGE else None,
        "kinds": [kind.value for kind in What],
        "query": _query(request),
    }


@_page("/audit", "audit.html")
async def audit(web: Web, request: Request) -> Context:
    """What operators did."""
    before = _number(request, "before", 0)
    entries = await queries.audit(web.reading, who=_text(request, "who"), before=before or None)
    return {
        "title": "Audit",
        "entries": entries,
        "older": entries[-1].number if len(entries) == PAGE else None,
        "query": _query(request),
    }
