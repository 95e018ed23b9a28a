"""Who uses the dashboard: logins are tried at the broker, which knows the farm's accounts.

An operator is whom the broker lets write operators' requests. Everybody else whom it takes may
look.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

from icefarm_broker import (
    BrokerAddress,
    BrokerError,
    LoginRefusedError,
    may_publish,
    takes_anybody,
)
from icefarm_schemas import OperatorOperation, check_name
from icefarm_schemas.topics import OperatorTopic

_REMEMBERED = 60.0
"""Seconds for which a program's name and password are not tried again at each of its requests."""
_MOST_REMEMBERED = 1000
_QUICK = 1.0
"""Seconds for which the login page waits to know what to say."""
_AT_ONCE = 4
"""Logins tried at the broker at the same time."""
_PENALTY = 1.0
"""Seconds that a wrong password costs, so that they cannot be tried by the thousand."""


class Role(StrEnum):
    """What a user may do."""

    OBSERVER = "observer"
    """Look."""
    OPERATOR = "operator"
    """Look, and act."""


@dataclass(frozen=True)
class User:
    """Who is logged in, by the name of the farm's account."""

    name: str
    role: Role

    @property
    def is_operator(self) -> bool:
        """Whether the user may act."""
        return self.role is Role.OPERATOR


class Accounts:
    """The farm's accounts, as the broker at `address` has them."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._salt = secrets.token_bytes(16)
        self._known: dict[bytes, tuple[float, User]] = {}
        self._takes_anybody: tuple[float, bool] | None = None

    async def takes_anybody(self) -> bool | None:
        """Whether any name will do, as of a minute ago at most; none when that cannot be told."""
        now = time.monotonic()
        if self._takes_anybody is None or now >= self._takes_anybody[0]:
            try:
                async with asyncio.timeout(_QUICK), self._turns:
                    found = await takes_anybody(self._address)
            except (BrokerError, TimeoutError):
                return None
            self._takes_anybody = (now + _REMEMBERED, found)
        return self._takes_anybody[1]

    async def login(self, name: str, password: str) -> User:
        """The user of this name.

        Raises:
            LoginRefusedError: there is none, or the password is wrong.
            BrokerError: the broker does not answer.
        """
        try:
            check_name(name)
            probe = OperatorTopic(name, "dashboard", OperatorOperation.PROBE)
        except ValueError as error:
            raise LoginRefusedError(str(error)) from error
        async with self._turns:
            try:
                operator = await may_publish(self._address, name, password, probe)
            except LoginRefusedError:
                await asyncio.sleep(_PENALTY)
                raise
        return User(name, Role.OPERATOR if operator else Role.OBSERVER)

    async def login_again(self, name: str, password: str) -> User:
        """As `login`, but what it found is good for a minute: for programs, which log in each time.

        Raises:
            LoginRefusedError, BrokerError: as `login`.
        """
        key = hmac.digest(self._salt, f"{name}\n{password}".encode(), hashlib.sha256)
        now = time.monotonic()
        found = self._known.get(key)
        if found is not None and now < found[0]:
            return found[1]
        user = await self.login(name, password)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = (now + _REMEMBERED, user)
        return user
