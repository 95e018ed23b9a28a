"""What `icefarm doctor` finds out, one thing at a time."""

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """What is looked at, in this order."""

    CONFIGURATION = "configuration"
    NAME = "name"
    NETWORK = "network"
    TLS = "tls"
    LOGIN = "login"
    ACCESS = "access"
    CONTROL = "control"
    DATABASE = "database"
    CLOCK = "clock"
    USB = "usb"


REACHING = {Check.NAME, Check.NETWORK, Check.TLS, Check.LOGIN, Check.CONTROL}
"""Without one of these, the farm cannot be reached."""


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WRONG = "wrong"
    ADVICE = "advice"
    """The farm can be used, but not all of it, or not as it should be."""
    SKIPPED = "skipped"
    """It cannot be known, or is not needed."""


@dataclass(frozen=True)
class Finding:
    """What a check has found, and what to do about it where something is wrong."""

    check: Check
    state: State
    what: str
    todo: str | None = None


def ok(check: Check, what: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, what)


def wrong(check: Check, what: str, todo: str) -> Finding:
    """Something must be done."""
    return Finding(check, State.WRONG, what, todo)


def advice(check: Check, what: str, todo: str) -> Finding:
    """Something could be done."""
    return Finding(check, State.ADVICE, what, todo)


def skipped(check: Check, what: str) -> Finding:
    """It was not looked at."""
    return Finding(check, State.SKIPPED, what)
