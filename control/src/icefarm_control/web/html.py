"""Serving the pages: as HTML, as the events of their changes, and logging in and out."""

import hashlib
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, HTTPException, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from icefarm_broker import BrokerError, LoginRefusedError
from icefarm_control.web import live
from icefarm_control.web.access import (
    Follower,
    Viewer,
    check_key,
    check_token,
    log_in,
    page_user,
    session_user,
    token,
)
from icefarm_control.web.changes import About
from icefarm_control.web.pages import PAGES, Context, Page
from icefarm_control.web.state import Trouble, Web

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_TROUBLE = "/trouble"
"""The events of pages that do not change themselves."""


def _row_id(*names: str) -> str:
    """An id for an element: names may have characters that an id may not."""
    return "row-" + hashlib.sha1("/".join(names).encode()).hexdigest()[:12]


def _length(seconds: float) -> str:
    """A duration for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _link(*levels: str) -> str:
    """The path of a page."""
    return "/" + "/".join(quote(level, safe="") for level in levels)


def _with(query: dict[str, str], **changed: Any) -> str:
    """A query with some of it changed; what is none is left out."""
    merged = query | changed
    return "?" + urlencode({name: value for name, value in merged.items() if value})


def _do(action: str, **about: str) -> str:
    """Where an action on something is asked for."""
    return f"/do/{action}{_with({}, **about)}"


_environment = Environment(
    loader=PackageLoader("icefarm_control.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals |= {"row_id": _row_id, "link": _link, "with": _with, "do": _do}
_environment.filters |= {"length_of_time": _length, "words": lambda text: text.replace("_", " ")}


def common(request: Request) -> Context:
    """What every page is told."""
    web: Web = request.app.state.web
    query = f"?{request.url.query}" if request.url.query else ""
    path = request.url.path.removeprefix("/live") or "/"
    here = path + query
    return {
        "user": session_user(request),
        "token": token(request),
        "trouble": web.trouble(),
        "path": path,
        "here": here,
        "live": f"/live{here}",
        "live_id": hashlib.sha1(here.encode()).hexdigest()[:8],
        "told": request.session.pop("told", None),
    }


def page(template: str, context: Context, code: int = 200) -> HTMLResponse:
    """A page as HTML."""
    return HTMLResponse(_environment.get_template(template).render(context), code)


def away(request: Request) -> HTMLResponse:
    """The page in the place of one that the database is needed for."""
    answer = page(
        "away.html",
        common(request) | {"title": "No database"},
        status.HTTP_503_SERVICE_UNAVAILABLE,
    )
    if session_user(request) is None:
        # Who is logged in hears of it by the events of the page.
        answer.headers["Refresh"] = "5"
    return answer


def fault(request: Request, error: HTTPException) -> HTMLResponse:
    """The page that says why there is no other one."""
    context = still(request) | {"title": "That did not work", "why": error.detail}
    return page("fault.html", context, error.status_code)


def still(request: Request) -> Context:
    """What a page is told of which nothing changes but what control has lost."""
    return common(request) | {"live": _TROUBLE}


def _render_trouble(request: Request, *more: Trouble) -> live.Blocks:
    """What all pages say of what control has lost, and `more` that is wrong with one of them."""
    context = common(request) | {"title": ""}
    context["trouble"] = [*more, *context["trouble"]]
    return live.render_blocks(_environment, "base.html", context)


def _stream(
    request: Request, render: live.Render, shown: Collection[About] = ()
) -> StreamingResponse:
    """The events of a page that is open; `shown` is what is on it and not on all pages."""
    web: Web = request.app.state.web
    events: AsyncIterator[bytes] = live.follow(
        web.changes, shown, render, partial(_render_trouble, request)
    )
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        # A proxy must not keep events until it has many.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _serve(shown: Page) -> None:
    async def show(request: Request, _: Viewer) -> HTMLResponse:
        context = await shown.gather(request.app.state.web, request)
        return page(shown.template, common(request) | context)

    async def follow(request: Request, _: Follower) -> StreamingResponse:
        async def render() -> live.Blocks:
            context = await shown.gather(request.app.state.web, request)
            return live.render_blocks(_environment, shown.template, common(request) | context)

        return _stream(request, render, shown.shows(request))

    router.add_api_route(f"/live{shown.path}", follow, name=f"live {shown.path}")
    router.add_api_route(shown.path, show, name=shown.path)


for _each in PAGES:
    _serve(_each)


@router.get(_TROUBLE)
async def follow_trouble(request: Request, _: Follower) -> StreamingResponse:
    """What control has lost, for pages of which nothing else changes."""

    async def render() -> live.Blocks:
        return _render_trouble(request)

    return _stream(request, render)


def inside(back: str) -> str:
    """A path of this server, whatever a link has said."""
    is_inside = back.startswith("/") and not back.startswith("//") and "\\" not in back
    return back if is_inside and back.isprintable() else "/"


@router.get("/login", dependencies=[Depends(check_key)])
async def login_form(request: Request, back: str = "/") -> Response:
    """Ask who it is."""
    if session_user(request) is not None:
        return RedirectResponse(inside(back), status.HTTP_303_SEE_OTHER)
    return await _login_page(request, back)


async def _login_page(
    request: Request, back: str, name: str = "", why: str | None = None, code: int = 200
) -> HTMLResponse:
    web: Web = request.app.state.web
    context = {
        "title": "Log in",
        "back": back,
        "name": name,
        "why": why,
        "anybody": await web.accounts.takes_anybody(),
    }
    return page("login.html", common(request) | context, code)


@router.post("/login", dependencies=[Depends(check_key)])
async def login(
    request: Request,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    back: Annotated[str, Form(max_length=4000)] = "/",
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Log in at the broker."""
    check_token(request, csrf)
    web: Web = request.app.state.web
    try:
        user = await web.accounts.login(name.strip(), password)
    except LoginRefusedError:
        why, code = "There is no such account, or this is not its password.", 403
    except BrokerError as error:
        why = f"The broker, which knows the farm's accounts, does not answer: {error}."
        code = status.HTTP_503_SERVICE_UNAVAILABLE
    else:
        log_in(request, user)
        return RedirectResponse(inside(back), status.HTTP_303_SEE_OTHER)
    return await _login_page(request, back, name, why, code)


@router.post("/logout", dependencies=[Depends(page_user)])
async def logout(request: Request, csrf: Annotated[str, Form()] = "") -> Response:
    """End the session in this browser."""
    check_token(request, csrf)
    request.session.clear()
    return RedirectResponse("/login", status.HTTP_303_SEE_OTHER)
