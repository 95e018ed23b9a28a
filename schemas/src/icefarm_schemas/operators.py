"""What operators ask of control for all boards, what control tells agents, and the record."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from icefarm_schemas.errors import ErrorCode
from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name, check_name

DEFAULT_DRAIN_DEADLINE = 600.0
"""Seconds that holders have left on an agent that is drained, where none are given."""

MAX_DRAIN_DEADLINE = 7 * 86400.0
"""Seconds."""

MAX_NOTE = 2000
"""Characters of a board's note."""

MAX_AUDIT = 1000
"""The most entries in one answer; ask for earlier ones by `before`."""

_MOST_NAMED = 1000


class OperatorOperation(StrEnum):
    """The last level of an operator's request."""

    END = "end"
    """End anybody's reservations, or take boards out of them."""
    EXTEND = "extend"
    """Let anybody's leases end later."""
    DRAIN = "drain"
    """Give the boards of agents to nobody, and take them back at a deadline."""
    RESUME = "resume"
    """Let agents go on that are drained."""
    RESTART = "restart"
    """Let agents end and be started again."""
    RESTART_DEVICES = "restart_devices"
    """Start boards anew where they are, whoever holds them."""
    FORGET = "forget"
    """Remove boards, and find them again if they are there."""
    FORGET_AGENTS = "forget_agents"
    """Remove agents that are not there, with their boards."""
    NOTE = "note"
    """Write something about boards for all to see."""
    AUDIT = "audit"
    """Ask what operators did."""
    PROBE = "probe"
    """Ask for nothing: that the broker takes it shows that one is an operator."""


def _check_device(text: str) -> str:
    for name in text.split("/", 1):
        check_name(name)
    return text


DeviceName = Annotated[str, AfterValidator(_check_device)]
"""A device, by its name, or by `agent/device` where several agents may know one of that name."""


def _check_no_repetition(named: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if named is not None and len(set(named)) != len(named):
        raise ValueError("one is named twice")
    return named


_Names = Annotated[
    tuple[Name, ...] | None,
    Field(min_length=1, max_length=_MOST_NAMED),
    AfterValidator(_check_no_repetition),
]
_Devices = Annotated[
    tuple[DeviceName, ...],
    Field(min_length=1, max_length=_MOST_NAMED),
    AfterValidator(_check_no_repetition),
]
# What is done to other people's boards is never guessed: 0 is not false, and false is not 0.
_Flag = Annotated[bool, Strict()]
_Seconds = Annotated[float, Strict()]
_Deadline = Annotated[_Seconds, Field(ge=0, le=MAX_DRAIN_DEADLINE)]


class _OfReservations(Message):
    """Exactly one of `reservations`, `devices`, `client` and `all` says what it is about.

    Where one of those that are named cannot be served, none is. With `dry_run` nothing is done, and
    the reply is what it would be.
    """

    reservations: _Names = None
    devices: _Devices | None = None
    client: Name | None = None
    all: _Flag = False
    dry_run: _Flag = False

    @model_validator(mode="after")
    def _one_of_four(self) -> Self:
        named = (self.reservations, self.devices, self.client)
        if sum(value is not None for value in named) + self.all != 1:
            raise ValueError("give one of reservations, devices, client and all")
        return self


class EndRequest(_OfReservations):
    """End anybody's reservations; of `devices`, only these leave theirs, which end with the last.

    Exactly one of `reservations`, `devices`, `client` and `all` says what it is about. Where one of
    those that are named cannot be served, none is. With `dry_run` nothing is done, and the reply is
    what it would be.
    """


class ExtendLeasesRequest(_OfReservations):
    """Let anybody's leases end `duration` seconds from now; of `devices`, their reservations'.

    What it is about is said as for an `EndRequest`.
    """

    duration: _Seconds = Field(gt=0, allow_inf_nan=False)


class _OfAgents(Message):
    """Exactly one of `agents` and `all`, which are those that are there."""

    agents: _Names = None
    all: _Flag = False
    dry_run: _Flag = False

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.agents is not None) + self.all != 1:
            raise ValueError("give one of agents and all")
        return self


class DrainRequest(_OfAgents):
    """Give the devices of `agents`, or of `all` that are there, to nobody until they are resumed.

    Holders keep theirs for up to `deadline` seconds; then these leave their reservations.
    """

    deadline: _Deadline = DEFAULT_DRAIN_DEADLINE


class ResumeRequest(_OfAgents):
    """Let `agents`, or `all`, go on that are drained, or were to be restarted."""


class RestartRequest(_OfAgents):
    """Let `agents`, or `all` that are there, end when nobody holds their devices any more.

    Or after `deadline` seconds; what supervises them starts them again. Who still holds a device
    then keeps it, if the agent is back within the reservation's `device_grace`.
    """

    deadline: _Deadline = DEFAULT_DRAIN_DEADLINE


class _OfDevices(Message):
    devices: _Devices
    dry_run: _Flag = False


class RestartDevicesRequest(_OfDevices):
    """Start devices anew in what they do, whoever holds them, as a holder's `reset` does."""


class ForgetRequest(_OfDevices):
    """Remove devices, and what is noted of them; agents that are there look for them anew."""


class ForgetAgentsRequest(Message):
    """Remove `agents` that are offline, with their boards, of which nobody may hold one.

    One that comes back is found as if it were new.
    """

    agents: Annotated[
        tuple[Name, ...],
        Field(min_length=1, max_length=_MOST_NAMED),
        AfterValidator(_check_no_repetition),
    ]
    dry_run: _Flag = False


class NoteRequest(_OfDevices):
    """Write something about devices, in the place of what is written there; nothing removes it."""

    text: str = Field(default="", max_length=MAX_NOTE)


class AuditRequest(Message):
    """What operators asked for, newest first; `before` is the `number` of the last known one."""

    since: UtcTime | None = None
    before: int | None = None
    limit: int = Field(default=100, ge=1, le=MAX_AUDIT)


class ProbeRequest(Message):
    """Nothing. The reply has no reservations."""


OPERATIONS: dict[str, type[Message]] = {
    OperatorOperation.END: EndRequest,
    OperatorOperation.EXTEND: ExtendLeasesRequest,
    OperatorOperation.DRAIN: DrainRequest,
    OperatorOperation.RESUME: ResumeRequest,
    OperatorOperation.RESTART: RestartRequest,
    OperatorOperation.RESTART_DEVICES: RestartDevicesRequest,
    OperatorOperation.FORGET: ForgetRequest,
    OperatorOperation.FORGET_AGENTS: ForgetAgentsRequest,
    OperatorOperation.NOTE: NoteRequest,
    OperatorOperation.AUDIT: AuditRequest,
    OperatorOperation.PROBE: ProbeRequest,
}
"""The message of each operation."""


class ConcernedAgent(Message):
    """An agent that an operator's request is about, as it is to be after it.

    `reservations` are those that hold devices of it now.
    """

    agent: Name
    drains_until: UtcTime | None = None
    restart: bool = False
    reservations: tuple[Name, ...] = ()


class ConcernedDevice(Message):
    """A device that an operator's request is about, and the reservation that it is in."""

    agent: Name
    device: Name
    reservation: Name | None = None


class AuditEntry(Message):
    """What an operator asked for: `about` is the request, `outcome` what came of it, in words.

    `error` is there where it was refused.
    """

    number: int
    at: UtcTime
    who: Name
    operation: str
    about: dict[str, Any]
    dry_run: bool
    outcome: str
    error: ErrorCode | None = None


class AgentWish(Message):
    """`agents/{agent}/wanted`: that an agent is to be drained; no message means that it is not.

    It holds from `asked_at` to `drains_until`, which an agent counts by its own monotonic clock.
    With `restart`, the process of that `boot_id` is to end then, or as soon as nobody holds a
    device of it.
    """

    asked_at: UtcTime
    drains_until: UtcTime
    restart: Name | None = None


class Note(Message):
    """`agents/{agent}/devices/{device}/note`: what an operator has written about a device."""

    text: str


class AgentCommand(StrEnum):
    """The last level of what control tells an agent to do at once."""

    RESTART_DEVICE = "restart_device"
    """Start a device anew."""
    FORGET = "forget"
    """Remove a device, and look for it anew."""


class DeviceCommand(Message):
    """The device that a command is about."""

    device: Name


AGENT_COMMANDS: dict[str, type[Message]] = dict.fromkeys(AgentCommand, DeviceCommand)
"""The message of each command."""


class LogLevel(StrEnum):
    """How much a line of a log matters."""

    DEBUG = "debug"
    """For whoever looks for a fault."""
    INFO = "info"
    """What happens."""
    WARNING = "warning"
    """Something was not as it should be, and is dealt with."""
    ERROR = "error"
    """Something does not work."""


class LogLine(Message):
    """`agents/{agent}/log`: a line of an agent's log."""

    at: UtcTime
    level: LogLevel
    logger: str
    text: str
    device: Name | None = None
    reservation: Name | None = None
