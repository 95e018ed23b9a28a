"""Who asks: by a session's cookie, with a token against forged requests, or by HTTP Basic."""

import base64
import binascii
import hmac
import secrets
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBase
from fastapi.security.base import SecurityBase

from icefarm_broker import BrokerError, LoginRefusedError
from icefarm_control.web.accounts import Accounts, Role, User
from icefarm_control.web.reading import DatabaseAwayError
from icefarm_control.web.state import Web

TOKEN_HEADER = "X-CSRF-Token"


class LoginNeededError(Exception):
    """A page was asked for by somebody who is not logged in; `back` is where that was."""

    def __init__(self, back: str) -> None:
        super().__init__(back)
        self.back = back

    @property
    def url(self) -> str:
        """Where to log in."""
        return f"/login?back={quote(self.back, safe='')}"


def token(request: Request) -> str:
    """What each form of this session must bring back."""
    if "token" not in request.session:
        request.session["token"] = secrets.token_urlsafe(24)
    found: str = request.session["token"]
    return found


def check_token(request: Request, brought: str | None) -> None:
    """Refuse a request that was not made by a page of ours.

    Raises:
        HTTPException: it was not.
    """
    _refuse_other_sites(request)
    expected = request.session.get("token")
    if not expected or not hmac.compare_digest(expected.encode(), (brought or "").encode()):
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            "this form is too old, or was not made by this dashboard: nothing was done; "
            "reload the page and try again",
        )


def _refuse_other_sites(request: Request) -> None:
    # A browser says where a request was made; a program says nothing.
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "a page of another site has asked for this")


def check_key(request: Request) -> None:
    """Refuse to look for who is logged in, or to log in, as long as nobody could be.

    Raises:
        DatabaseAwayError: the key of all sessions is in the database, which has not been there yet.
    """
    web: Web = request.app.state.web
    if web.key.value is None:
        raise DatabaseAwayError(web.changes.why_away or "control has not connected to it yet")


def log_in(request: Request, user: User) -> None:
    """Begin a session, with a new token."""
    request.session.clear()
    request.session.update(user=user.name, role=user.role.value)


def session_user(request: Request) -> User | None:
    """Who is logged in, if somebody is."""
    name, role = request.session.get("user"), request.session.get("role")
    return User(name, Role(role)) if name and role else None


def page_user(request: Request) -> User:
    """Who looks at a page.

    Raises:
        LoginNeededError: nobody is logged in.
        DatabaseAwayError: nobody can be known to be.
    """
    check_key(request)
    user = session_user(request)
    if user is None:
        query = f"?{request.url.query}" if request.url.query else ""
        raise LoginNeededError(request.url.path + query)
    return user


def follower(request: Request) -> User:
    """Who follows the changes of a page that is open.

    Raises:
        HTTPException: nobody is logged in any more: the page is to be loaded anew.
        DatabaseAwayError: nobody can be known to be.
    """
    check_key(request)
    user = session_user(request)
    if user is None:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "nobody is logged in any more")
    return user


async def api_user(request: Request) -> User:
    """Who uses the REST API: by HTTP Basic, or a browser by its session.

    Raises:
        HTTPException: nobody does, the broker does not know him or does not answer, or an unsafe
            request of a browser brings no token.
        DatabaseAwayError: a browser asks, and nobody can be known to be logged in there.
    """
    is_safe = request.method in ("GET", "HEAD", "OPTIONS")
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if not is_safe:
            # A browser that was asked for a password sends it with forged requests, too.
            _refuse_other_sites(request)
        if scheme.lower() != "basic":
            raise _who_are_you("log in by HTTP Basic with the name and password of an account")
        return await _by_password(request.app.state.web.accounts, credentials)
    check_key(request)
    user = session_user(request)
    if user is None:
        raise _who_are_you("log in by HTTP Basic with the name and password of an account")
    if not is_safe:
        check_token(request, request.headers.get(TOKEN_HEADER))
    return user


async def _by_password(accounts: Accounts, credentials: str) -> User:
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _who_are_you("the header Authorization is not what HTTP Basic has there") from None
    name, _, password = text.partition(":")
    try:
        return await accounts.login_again(name, password)
    except LoginRefusedError:
        raise _who_are_you(f"the farm has no account {name!r} with this password") from None
    except BrokerError as error:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            f"the broker, which knows the farm's accounts, does not answer: {error}",
        ) from error


def _who_are_you(why: str) -> HTTPException:
    return HTTPException(
        status.HTTP_401_UNAUTHORIZED, why, headers={"WWW-Authenticate": 'Basic realm="icefarm"'}
    )


async def api_operator(user: Annotated[User, Depends(api_user)]) -> User:
    """Who acts by the REST API.

    Raises:
        HTTPException: he may only look.
    """
    check_operator(user)
    return user


def check_operator(user: User) -> None:
    """Refuse who may only look.

    Raises:
        HTTPException: he may.
    """
    if not user.is_operator:
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"{user.name} may look, but not act: that is for accounts with the role operator",
        )


class _Login(SecurityBase):
    """A way to log in, for the API's document; `api_user` knows them all."""

    def __init__(self, name: str, model: HTTPBase | APIKey) -> None:
        self.scheme_name, self.model = name, model

    def __call__(self) -> None:
        """It is found out elsewhere whether it was used."""


LOGINS = [
    Security(
        _Login("account", HTTPBase(scheme="basic", description="An account of the farm's broker."))
    ),
    Security(
        _Login(
            "session",
            APIKey(
                **{"in": APIKeyIn.cookie},
                name="icefarm",
                description=f"A login in a browser; what changes something needs {TOKEN_HEADER}, "
                "too.",
            ),
        )
    ),
]
"""The ways to log in to the API, of which one is enough."""

Viewer = Annotated[User, Depends(page_user)]
Follower = Annotated[User, Depends(follower)]
Asker = Annotated[User, Depends(api_user)]
Operator = Annotated[User, Depends(api_operator)]
