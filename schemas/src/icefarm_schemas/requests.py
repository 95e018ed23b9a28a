"""What clients ask of control, and its answers."""

import json
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from icefarm_schemas.errors import Error
from icefarm_schemas.message import Message
from icefarm_schemas.names import Name
from icefarm_schemas.states import ReservationState

MAX_DEVICES = 1000
"""The most devices in one reservation."""

MAX_ARGUMENTS = 16_384
"""Characters of the arguments of a behaviour, as JSON."""

MAX_WAIT = 7 * 86400.0
"""Seconds: the longest time in the queue."""

DEFAULT_DURATION = 3600.0
"""Seconds of a lease whose request names none."""


class Operation(StrEnum):
    """The last level of a request's topic."""

    RESERVE = "reserve"
    EXTEND = "extend"
    RELEASE = "release"


class OnSessionEnd(StrEnum):
    """What the end of the session that made a reservation means for it."""

    RELEASE = "release"
    KEEP = "keep"


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"they cannot be JSON: {error}") from error
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"they have {len(text):,} characters; {MAX_ARGUMENTS:,} are allowed")
    return arguments


class ReserveRequest(Message):
    """Take devices: `count` of any that offer the behaviour, or exactly the named `devices`.

    All of them or none. Where they are not free, the request waits in the queue for up to `wait`
    seconds; without `wait`, it is refused. Those with a higher `priority` are served first, and
    within one priority those that came first. `duration` is that of the lease, in seconds, from the
    moment at which there are devices.
    """

    behaviour: Name
    count: int | None = Field(default=None, ge=1, le=MAX_DEVICES)
    devices: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=MAX_DEVICES)
    arguments: Annotated[dict[str, Any], AfterValidator(_check_arguments)] = Field(
        default_factory=dict
    )
    duration: float = Field(default=DEFAULT_DURATION, gt=0, allow_inf_nan=False)
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


class ExtendRequest(Message):
    """Let a lease end `duration` seconds from now."""

    reservation: Name
    duration: float = Field(default=DEFAULT_DURATION, gt=0, allow_inf_nan=False)


class ReleaseRequest(Message):
    """Give back all devices of a reservation."""

    reservation: Name


REQUESTS: dict[str, type[Message]] = {
    Operation.RESERVE: ReserveRequest,
    Operation.EXTEND: ExtendRequest,
    Operation.RELEASE: ReleaseRequest,
}
"""The message of each operation."""


class Reply(Message):
    """`clients/{client}/{session}/replies`: an answer, found by its correlation data."""

    reservation: ReservationState | None = None
    error: Error | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.reservation is None) == (self.error is None):
            raise ValueError("a reply holds either a reservation or an error")
        return self
