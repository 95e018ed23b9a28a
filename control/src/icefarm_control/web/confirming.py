"""Doing something from a page: a page that asks whether to, and the form that does it."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import QueryParams

from icefarm_control.web import farm, queries
from icefarm_control.web.access import Viewer, check_operator, check_token
from icefarm_control.web.acting import (
    ACTIONS,
    Action,
    in_words,
    is_chosen,
    new_correlation,
    read_request,
)
from icefarm_control.web.html import inside, page, still
from icefarm_control.web.reading import DatabaseAwayError
from icefarm_control.web.state import Web
from icefarm_control.web.views import Agent, Board, Reservation

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_MOST = 1000
_SHOWN = 20
_LONGEST_TOLD = 1500
"""Characters: it travels in a cookie."""


def _action(name: str) -> Action:
    if name not in ACTIONS:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no action {name!r}")
    return ACTIONS[name]


def _back(request: Request, given: QueryParams) -> str:
    """The page that an action was chosen on."""
    if given.get("back"):
        return inside(given["back"])
    came = urlsplit(request.headers.get("Referer", ""))
    here = urlsplit(str(request.url))
    if came.netloc == here.netloc and not came.path.startswith(("/do/", "/login")):
        return inside(came.path + (f"?{came.query}" if came.query else ""))
    return "/"


async def _concerned(
    web: Web, action: Action, given: QueryParams
) -> Sequence[Agent] | Sequence[Board] | Sequence[Reservation]:
    """What an action would be about, as it is now."""
    if action.about == "agents":
        names = set(given.getlist("agent"))
        everybody = given.get("all") == "yes"
        return [agent for agent in await farm.agents(web) if everybody or agent.name in names]
    if given.getlist("board"):
        named = [name.partition("/") for name in given.getlist("board")[:_MOST]]
        boards = [await queries.board(web.reading, agent, board) for agent, _, board in named]
        return [board for board in boards if board is not None]
    if given.get("client"):
        found = await queries.reservations(web.reading, client=given["client"], limit=_MOST)
    elif given.get("all") == "yes":
        found = await queries.reservations(web.reading, limit=_MOST)
    else:
        ids = given.getlist("reservation")
        found = await queries.reservations(web.reading, ids=ids, limit=_MOST)
    return found.reservations


async def _confirm(
    request: Request, action: Action, given: QueryParams, why: str | None, code: int = 200
) -> Response:
    concerned = await _concerned(request.app.state.web, action, given)
    context = {
        "title": action.title,
        "action": action,
        "given": given,
        "named": [
            (name, value)
            for name in ("reservation", "board", "client", "agent", "all")
            for value in given.getlist(name)
            if value
        ],
        "concerned": concerned[:_SHOWN],
        "more": max(len(concerned) - _SHOWN, 0),
        "back": _back(request, given),
        "correlation": new_correlation(),
        "why": why,
    }
    return page("confirm.html", still(request) | context, code)


@router.get("/do/{name}")
async def ask(request: Request, user: Viewer, name: str) -> Response:
    """Say what it would mean, and ask whether to do it."""
    check_operator(user)
    action, given = _action(name), request.query_params
    if not is_chosen(action, given):
        back = _back(request, given)
        request.session["told"] = "Nothing was done: nothing was chosen. Choose something first."
        return RedirectResponse(back, status.HTTP_303_SEE_OTHER)
    return await _confirm(request, action, given, None)


@router.post("/do/{name}")
async def do(request: Request, user: Viewer, name: str) -> Response:
    """Do it, and say on the page that it was chosen on what came of it."""
    form = await request.form(max_fields=3 * _MOST)
    given = QueryParams([(key, text) for key, text in form.multi_items() if isinstance(text, str)])
    check_token(request, given.get("csrf"))
    check_operator(user)
    action = _action(name)
    web: Web = request.app.state.web
    try:
        wanted = read_request(action, given)
        correlation = bytes.fromhex(given.get("correlation", new_correlation()))[:32]
    except ValueError as error:
        why = f"Nothing was done: {error}."
        return await _confirm(request, action, given, why, status.HTTP_422_UNPROCESSABLE_CONTENT)
    try:
        reply = await web.operating.carry_out(
            user, "dashboard", action.operation, wanted, correlation
        )
    except DatabaseAwayError as error:
        told = f"It is not known to have been done: the database does not answer ({error})."
    else:
        told = in_words(action, reply)
    request.session["told"] = told[:_LONGEST_TOLD]
    return RedirectResponse(inside(given.get("back", "/")), status.HTTP_303_SEE_OTHER)
