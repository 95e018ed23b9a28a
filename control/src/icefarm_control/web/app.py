"""The dashboard and the REST API as one application."""

from importlib import resources
from importlib.metadata import version

from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from icefarm_control.web import api, api_actions, confirming, html
from icefarm_control.web.access import LoginNeededError
from icefarm_control.web.reading import DatabaseAwayError
from icefarm_control.web.sessions import WithSession
from icefarm_control.web.state import Web

_HEADERS = {
    # Nothing is inline, and nothing comes from elsewhere.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def make_app(web: Web) -> FastAPI:
    """The application that serves `web`."""
    app = FastAPI(
        title="iCEFARM",
        summary="Boards of a farm, who holds them, and what its keepers can do about it.",
        version=version("icefarm-control"),
        openapi_url="/api/v1/openapi.json",
        # These would load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.web = web
    # In this order: what is asked for in vain of /agents/drain is told by its own route, and not
    # by that of an agent of this name.
    app.include_router(api_actions.router)
    app.include_router(api.router)
    app.include_router(html.router)
    app.include_router(confirming.router)
    static = resources.files("icefarm_control.web").joinpath("static")
    app.mount("/static", StaticFiles(directory=str(static)), name="static")
    app.add_middleware(WithSession, key=web.key)
    app.add_middleware(_WithHeaders)
    _add_faults(app)
    return app


class _WithHeaders:
    """Adds what every answer is to say to browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _add_faults(app: FastAPI) -> None:
    @app.exception_handler(LoginNeededError)
    async def ask_who(request: Request, error: LoginNeededError) -> Response:
        return RedirectResponse(error.url, 303)

    @app.exception_handler(DatabaseAwayError)
    async def say_away(request: Request, error: DatabaseAwayError) -> Response:
        if _is_api(request):
            return JSONResponse({"detail": f"the database does not answer: {error}"}, 503)
        return html.away(request)

    @app.exception_handler(api_actions.RefusedByFarmError)
    async def say_refused(request: Request, error: api_actions.RefusedByFarmError) -> Response:
        return api_actions.refused(error)

    @app.exception_handler(StarletteHTTPException)
    async def say_why(request: Request, error: StarletteHTTPException) -> Response:
        if _is_api(request) or request.url.path.startswith("/static/"):
            return await http_exception_handler(request, error)
        return html.fault(request, HTTPException(error.status_code, error.detail))
