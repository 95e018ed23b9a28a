"""Retained states: what is, as each part reports it, and what should be, as control decides it."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name


class Presence(StrEnum):
    """Whether a process is there. The broker itself says `offline`, by the process's will."""

    ONLINE = "online"
    OFFLINE = "offline"


class ControlState(Message):
    """`control/state`: whether requests are answered."""

    status: Presence
    contract: str | None = None
    version: str | None = None
    started_at: UtcTime | None = None


class AgentState(Message):
    """`agents/{agent}/state`: one agent process. `boot_id` is new each time the agent starts."""

    status: Presence
    contract: str | None = None
    version: str | None = None
    boot_id: str | None = None
    behaviours: tuple[Name, ...] = ()
    devices: int = 0


class SessionState(Message):
    """`clients/{client}/{session}/state`: one running process of a client.

    `grace` is the delay of its will in seconds: how long it may be away before it counts as dead.
    """

    status: Presence
    grace: float | None = None
    since: UtcTime | None = None


class DeviceStatus(StrEnum):
    """Where a device is in its life. `gone` is not a status: its retained state is removed."""

    PREPARING = "preparing"
    """Found; being brought to a known state."""
    AVAILABLE = "available"
    """Free to be reserved."""
    STARTING = "starting"
    """Assigned; its behaviour is being started."""
    READY = "ready"
    """Its holder may use it."""
    CLEANING = "cleaning"
    """Given back; being brought to a known state for the next holder."""
    BROKEN = "broken"
    """Not usable; `detail` says why."""


class DeviceState(Message):
    """`agents/{agent}/devices/{device}/state`: what the agent reports."""

    status: DeviceStatus
    product: str
    behaviours: tuple[Name, ...]
    behaviour: Name | None = None
    reservation: Name | None = None
    detail: str | None = None
    since: UtcTime


class Assignment(Message):
    """`agents/{agent}/devices/{device}/assignment`: what control wants; no message means free."""

    reservation: Name
    client: Name
    session: Name
    behaviour: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    expires_at: UtcTime


class ReservationStatus(StrEnum):
    """Where a reservation is in its life.

    `ended` is told once, not retained, and the retained state is removed with it.
    """

    QUEUED = "queued"
    """Waiting for devices; `position` is 1 for the one that is next."""
    ACTIVE = "active"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a reservation ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    SESSION_GONE = "session_gone"
    NOT_SERVED = "not_served"
    """It waited in the queue for as long as it was ready to."""


class DeviceName(Message):
    """A device and the agent that has it."""

    agent: Name
    device: Name


class ReservationState(Message):
    """`reservations/{reservation}/state`, and the answer to each request about one.

    A queued one has a `position` and a time that it `waits_until`, and neither devices nor a lease.
    """

    reservation: Name
    status: ReservationStatus
    client: Name
    session: Name
    behaviour: Name
    devices: tuple[DeviceName, ...] = ()
    created_at: UtcTime
    expires_at: UtcTime | None = None
    position: int | None = None
    waits_until: UtcTime | None = None
    reason: EndReason | None = None
