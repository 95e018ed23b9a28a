"""What has happened: who held what, when and why, and how much of it."""

from enum import StrEnum

from pydantic import Field

from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name

MAX_TRANSITIONS = 1000
"""The most in one answer; ask for earlier ones by `before`."""


class What(StrEnum):
    """What happened to a reservation."""

    QUEUED = "queued"
    """It waits for devices."""
    ACTIVE = "active"
    """It has its devices."""
    EXTENDED = "extended"
    """Its lease ends later."""
    CHANGED = "changed"
    """Its devices do something else."""
    TAKEN_OVER = "taken_over"
    """Another session of its client has it."""
    RETURNED = "returned"
    """Some of its devices were given back; it goes on with the others."""
    DEVICE_LOST = "device_lost"
    """One of its devices went away or broke."""
    EXPIRING = "expiring"
    """Its holder was warned."""
    ENDED = "ended"
    """It is over."""


class HistoryRequest(Message):
    """The latest transitions, newest first; of one client, device or reservation where given.

    `before` is the `number` of the last one that is known already.
    """

    client: Name | None = None
    device: Name | None = None
    reservation: Name | None = None
    since: UtcTime | None = None
    before: int | None = None
    limit: int = Field(default=100, ge=1, le=MAX_TRANSITIONS)


class Transition(Message):
    """One step in the life of a reservation; `by` is the client that asked for it, if one did."""

    number: int
    at: UtcTime
    reservation: Name
    client: Name
    session: Name
    what: What
    why: str | None = None
    by: Name | None = None
    devices: tuple[Name, ...] = ()


class UsageRequest(Message):
    """How long boards were held between two moments; until now without `until`."""

    since: UtcTime | None = None
    until: UtcTime | None = None


class Used(Message):
    """What a client or a device comes to: reservations, and seconds, summed over its devices."""

    name: Name
    agent: Name | None = None
    reservations: int
    seconds: float


class Usage(Message):
    """Usage by client and by device, most used first."""

    clients: tuple[Used, ...] = ()
    devices: tuple[Used, ...] = ()
