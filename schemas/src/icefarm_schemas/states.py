"""Retained states: what is, as each part reports it, and what should be, as control decides it."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name


class Presence(StrEnum):
    """Whether a process is there. The broker itself says `offline`, by the process's will."""

    ONLINE = "online"
    """It is connected to the broker."""
    OFFLINE = "offline"
    """It has ended, or has lost the broker."""


class AgentStatus(StrEnum):
    """Whether an agent is there, and gives its devices away."""

    ONLINE = "online"
    """It is connected to the broker."""
    DRAINING = "draining"
    """It is too, but its devices are given to nobody; who holds one keeps it for now."""
    OFFLINE = "offline"
    """It has ended, or has lost the broker."""


class ControlState(Message):
    """`control/state`: whether requests are answered.

    A control process that begins to lead says `offline` until it knows the farm's devices.
    """

    status: Presence
    contract: str | None = None
    version: str | None = None
    started_at: UtcTime | None = None


class ControlProcessState(Message):
    """`control/processes/{process}/state`: one of the processes that share control's work.

    It is removed when the process is gone, by its will if need be.
    """

    version: str
    started_at: UtcTime


class Count(Message):
    """How many devices are free to be reserved, of how many that the farm knows."""

    available: int
    total: int


class Availability(Message):
    """`control/availability`: what could be reserved now, and how many wait in the queue."""

    devices: Count
    behaviours: dict[Name, Count] = Field(default_factory=dict)
    products: dict[str, Count] = Field(default_factory=dict)
    queued: int = 0


class AgentState(Message):
    """`agents/{agent}/state`: one agent process. `boot_id` is new each time the agent starts.

    One that is `draining` says until when its devices are their holders' at most, by its own clock.
    """

    status: AgentStatus
    drains_until: UtcTime | None = None
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
    """`agents/{agent}/devices/{device}/state`: what the agent reports.

    `in_use` says whether a stream of the holder's is open. `repairs` counts how often the agent
    found the device in another state than it should be in, and brought it back, since it started.
    `generation` is that of the assignment that it serves.
    `port` is where the device is plugged in, as in "1-1.2"; by it an agent that was killed knows a
    device again whose holder's firmware calls itself something else.
    """

    status: DeviceStatus
    product: str
    behaviours: tuple[Name, ...]
    labels: dict[Name, str] = Field(default_factory=dict)
    behaviour: Name | None = None
    reservation: Name | None = None
    generation: int | None = None
    in_use: bool = False
    repairs: int = 0
    port: str | None = Field(default=None, max_length=64)
    detail: str | None = None
    since: UtcTime


class Assignment(Message):
    """`agents/{agent}/devices/{device}/assignment`: what control wants; no message means free.

    The lease was given or extended at `granted_at`: an agent counts from there by its monotonic
    clock, whatever its wall clock shows. Each change of the behaviour or its arguments is a new
    `generation`, which the device reports when it serves it.
    """

    reservation: Name
    client: Name
    session: Name
    behaviour: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    generation: int = Field(default=1, ge=1)
    granted_at: UtcTime
    expires_at: UtcTime


class ReservationStatus(StrEnum):
    """Where a reservation is in its life.

    `ended` is told once, not retained, and the retained state is removed with it.
    """

    QUEUED = "queued"
    """Waiting for devices; `position` is 1 for the one that is next."""
    ACTIVE = "active"
    """It has its devices, until its lease ends."""
    ENDED = "ended"
    """It is over; `reason` says why."""


class EndReason(StrEnum):
    """Why a reservation ended."""

    RELEASED = "released"
    """Its holder gave it back."""
    EXPIRED = "expired"
    """Its lease ended, and nobody extended it."""
    SESSION_GONE = "session_gone"
    """The process that held it is gone."""
    NOT_SERVED = "not_served"
    """It waited in the queue for as long as it was ready to."""
    DEVICES_LOST = "devices_lost"
    """The last of its devices went away or broke."""
    OPERATOR = "operator"
    """An operator of the farm ended it."""


class HeldDevice(Message):
    """A device of a reservation, the agent that has it, and what it is to do.

    It does that when its state has this `generation`, or a later one.
    """

    agent: Name
    device: Name
    behaviour: Name
    generation: int = Field(default=1, ge=1)


class ReservationState(Message):
    """`reservations/{reservation}/state`, and the answer to each request about one.

    A queued one has a `position` and a time that it `waits_until`, and neither devices nor a lease.
    `devices` shrinks when one is lost or given back; the last ones stay in it when it has ended.
    """

    reservation: Name
    status: ReservationStatus
    client: Name
    session: Name
    behaviour: Name
    devices: tuple[HeldDevice, ...] = ()
    created_at: UtcTime
    expires_at: UtcTime | None = None
    position: int | None = None
    waits_until: UtcTime | None = None
    reason: EndReason | None = None
