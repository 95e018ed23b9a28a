"""What clients ask of control, and its answers."""

import json
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from icefarm_schemas.errors import Error
from icefarm_schemas.history import HistoryRequest, Transition, Usage, UsageRequest
from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name
from icefarm_schemas.operators import AuditEntry, ConcernedAgent, ConcernedDevice
from icefarm_schemas.states import ReservationState

MAX_DEVICES = 1000
"""The most devices in one reservation."""

MAX_ARGUMENTS = 16_384
"""Characters of the arguments of a behaviour, as JSON."""

MAX_WAIT = 7 * 86400.0
"""Seconds: the longest time in the queue."""

DEFAULT_DURATION = 3600.0
"""Seconds of a lease whose request names none."""

MAX_LEASE = 86400.0
"""Seconds: how far in the future a lease may end; longer work extends it on the way."""

DEFAULT_DEVICE_GRACE = 90.0
"""Seconds for which a device may be away before it counts as lost."""

_MAX_GRACE = 86400.0


class Operation(StrEnum):
    """The last level of a request's topic."""

    RESERVE = "reserve"
    """Take boards, or queue for them."""
    EXTEND = "extend"
    """Let leases end later."""
    RELEASE = "release"
    """Give boards back."""
    CHANGE = "change"
    """Let boards do something else while they stay reserved."""
    TAKE_OVER = "take_over"
    """Become the session that hears of reservations."""
    HISTORY = "history"
    """Ask what happened."""
    USAGE = "usage"
    """Ask how long boards were held."""


class OnSessionEnd(StrEnum):
    """What the end of the session that made a reservation means for it."""

    RELEASE = "release"
    """Its boards are given back."""
    KEEP = "keep"
    """It goes on until it is released, or its lease ends."""


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"they cannot be JSON: {error}") from error
    if "\\u0000" in text:
        raise ValueError("they hold the character NUL, which Postgres cannot keep")
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"they have {len(text):,} characters; {MAX_ARGUMENTS:,} are allowed")
    return arguments


_Arguments = Annotated[dict[str, Any], AfterValidator(_check_arguments)]


class ReserveRequest(Message):
    """Take devices: `count` of any that offer the behaviour, or exactly the named `devices`.

    A `product` and `labels` narrow the choice to the devices that have them. All that are asked for
    or none. Where they are not free, the request waits in the queue for up to `wait`
    seconds; without `wait`, it is refused. Those with a higher `priority` are served first, and
    within one priority those that came first. `duration` is that of the lease, in seconds, from the
    moment at which there are devices. A device whose agent is away for longer than `device_grace`
    seconds is lost, and the others stay.
    """

    behaviour: Name
    count: int | None = Field(default=None, ge=1, le=MAX_DEVICES)
    devices: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=MAX_DEVICES)
    product: str | None = Field(default=None, min_length=1, max_length=200)
    labels: dict[Name, str] = Field(default_factory=dict, max_length=32)
    arguments: _Arguments = Field(default_factory=dict)
    duration: float = Field(default=DEFAULT_DURATION, gt=0, allow_inf_nan=False)
    device_grace: float = Field(default=DEFAULT_DEVICE_GRACE, ge=0, le=_MAX_GRACE)
    on_session_end: OnSessionEnd = OnSessionEnd.RELEASE
    wait: float | None = Field(default=None, gt=0, le=MAX_WAIT)
    priority: int = Field(default=0, ge=-10, le=10)

    @model_validator(mode="after")
    def _count_or_devices(self) -> Self:
        if (self.count is None) == (self.devices is None):
            raise ValueError("give either count or devices")
        if self.devices is not None and len(set(self.devices)) != len(self.devices):
            raise ValueError("a device is named twice")
        return self


class _Selection(Message):
    """What a request is about: some reservations of the client's, some devices, or `all`.

    Exactly one of the three. Where one of those that are named cannot be served, none is.
    """

    reservations: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=1000)
    devices: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=MAX_DEVICES)
    all: bool = False

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = (self.reservations is not None) + (self.devices is not None) + self.all
        if given != 1:
            raise ValueError("give one of reservations, devices and all")
        named = self.reservations or self.devices or ()
        if len(set(named)) != len(named):
            raise ValueError("one is named twice")
        return self


class ExtendRequest(_Selection):
    """Let leases end `duration` seconds from now; of devices, that of their reservations."""

    duration: float = Field(default=DEFAULT_DURATION, gt=0, allow_inf_nan=False)


class ReleaseRequest(_Selection):
    """Give devices back. Reservations end; one of which devices are named keeps the others."""


class ChangeRequest(_Selection):
    """Let devices do something else while they stay reserved, or the same with other arguments."""

    behaviour: Name
    arguments: _Arguments = Field(default_factory=dict)


class TakeOverRequest(Message):
    """Become the session that reservations of the same client belong to, and hear of them."""

    reservations: tuple[Name, ...] = Field(min_length=1, max_length=1000)


REQUESTS: dict[str, type[Message]] = {
    Operation.RESERVE: ReserveRequest,
    Operation.EXTEND: ExtendRequest,
    Operation.RELEASE: ReleaseRequest,
    Operation.CHANGE: ChangeRequest,
    Operation.TAKE_OVER: TakeOverRequest,
    Operation.HISTORY: HistoryRequest,
    Operation.USAGE: UsageRequest,
}
"""The message of each operation."""


class Reply(Message):
    """`clients/{client}/{session}/replies`: an answer, found by its correlation data.

    One of these: what a request was about (reservations; of an operator's, also agents or
    devices), what was asked for, or the error that came instead. `at`, in answers about the past,
    is the time by the clock of the database, by which leases end.
    """

    reservations: tuple[ReservationState, ...] | None = None
    history: tuple[Transition, ...] | None = None
    usage: Usage | None = None
    agents: tuple[ConcernedAgent, ...] | None = None
    devices: tuple[ConcernedDevice, ...] | None = None
    audit: tuple[AuditEntry, ...] | None = None
    error: Error | None = None
    at: UtcTime | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        *kinds, last = [name for name in type(self).model_fields if name != "at"]
        if sum(getattr(self, name) is not None for name in (*kinds, last)) != 1:
            raise ValueError(f"a reply holds one of {', '.join(kinds)} and {last}")
        return self
