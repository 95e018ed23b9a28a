"""The session of each browser: a signed cookie, which is good at any control process of a farm.

What signs it is in the database, so that nobody is logged out when control restarts.
"""

from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from icefarm_control.database import Database

SESSION_SECONDS = 12 * 3600
"""How long a login in a browser lasts at most."""
_COOKIE = "icefarm"


class SessionKey:
    """What signs sessions; `value` is none until the database was there."""

    def __init__(self) -> None:
        self.value: str | None = None

    async def read(self, database: Database) -> None:
        """Learn it; whoever comes first makes it."""
        # Postgres makes it, so that it is in no statement that somebody may log.
        await database.call(
            """
            INSERT INTO secret (name, value)
            VALUES ('session', gen_random_uuid()::text || gen_random_uuid()::text)
            ON CONFLICT DO NOTHING
            """
        )
        [row] = await database.call("SELECT value FROM secret WHERE name = 'session'")
        self.value = row["value"]


class WithSession:
    """Gives each request the session of its browser; an empty one until there is a key."""

    def __init__(self, app: ASGIApp, key: SessionKey) -> None:
        self._app, self._key = app, key
        self._signing: dict[bool, SessionMiddleware] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._key.value is None:
            scope["session"] = {}
            await self._app(scope, receive, send)
        else:
            # Behind a proxy that serves https, a cookie must not be sent without.
            signing = self._sign(self._key.value, https=scope["scheme"] == "https")
            await signing(scope, receive, send)

    def _sign(self, key: str, *, https: bool) -> SessionMiddleware:
        if https not in self._signing:
            self._signing[https] = SessionMiddleware(
                self._app,
                secret_key=key,
                session_cookie=_COOKIE,
                max_age=SESSION_SECONDS,
                same_site="strict",
                https_only=https,
            )
        return self._signing[https]
