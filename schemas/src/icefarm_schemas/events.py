"""What happens to a holder's devices, on `clients/{client}/{session}/events`."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from icefarm_schemas.errors import Error
from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name
from icefarm_schemas.states import EndReason
from icefarm_schemas.streams import UsbDescription


class Measurement(Message):
    """What a board measured: a field for each behaviour, the others are absent.

    `pulses` counts the rising edges of the FPGA's pin 27 in one second. `variance` is the sum of
    the absolute differences of consecutive ADC readings of that pin over their count, and
    `waveform` holds the readings, when they were asked for.
    """

    pulses: int | None = Field(default=None, ge=0)
    variance: float | None = Field(default=None, ge=0)
    waveform: tuple[int, ...] | None = None


class EvaluationFinished(Message):
    """One bitstream on one device: a measurement, or the error that came instead of it.

    `seconds` is the time from the moment the board began to receive the bitstream.
    """

    event: Literal["evaluation_finished"] = "evaluation_finished"
    reservation: Name
    evaluation: Name
    agent: Name
    device: Name
    behaviour: Name
    measurement: Measurement | None = None
    error: Error | None = None
    seconds: float = Field(ge=0)
    finished_at: UtcTime

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.measurement is None) == (self.error is None):
            raise ValueError("an evaluation ends with either a measurement or an error")
        return self


class CommandRefused(Message):
    """An agent did not accept a command at all, for example because it came from no holder."""

    event: Literal["command_refused"] = "command_refused"
    reservation: Name
    command: Name
    id: Name
    agent: Name
    error: Error


class CommandFinished(Message):
    """A command to one device is done, or failed; `seconds` is how long it took."""

    event: Literal["command_finished"] = "command_finished"
    reservation: Name
    command: Name
    id: Name
    agent: Name
    device: Name
    error: Error | None = None
    seconds: float = Field(ge=0)


class StreamOpened(Message):
    """The bytes of a device flow; `usb` is there where they are those of USB/IP."""

    event: Literal["stream_opened"] = "stream_opened"
    reservation: Name
    stream: Name
    agent: Name
    device: Name
    usb: UsbDescription | None = None


class StreamClosed(Message):
    """A stream is over, or could not be opened; without an error, its device ended it."""

    event: Literal["stream_closed"] = "stream_closed"
    reservation: Name
    stream: Name
    agent: Name
    device: Name
    error: Error | None = None


class DeviceReady(Message):
    """A device does what it was reserved for, at first or again; sent by its agent."""

    event: Literal["device_ready"] = "device_ready"
    reservation: Name
    agent: Name
    device: Name
    behaviour: Name


class DeviceUnbound(Message):
    """A device does no longer what its holder had it do; sent by its agent.

    Its reservation is over, its behaviour is being changed, or the agent is stopping.
    """

    event: Literal["device_unbound"] = "device_unbound"
    reservation: Name
    agent: Name
    device: Name


class AgentStopping(Message):
    """An agent is being stopped, and some of a reservation's devices with it.

    With `until`, it waits so long at most for its holders to be done; without, it ends now.
    """

    event: Literal["agent_stopping"] = "agent_stopping"
    reservation: Name
    agent: Name
    devices: tuple[Name, ...]
    until: UtcTime | None = None


class FailureReason(StrEnum):
    """Why a device was taken out of a reservation."""

    BROKEN = "broken"
    """It does not do what it should."""
    GONE = "gone"
    """It was unplugged, or its agent does not have it any more."""
    AGENT_GONE = "agent_gone"
    """The machine that it is plugged into has not come back in time."""
    AGENT_DRAINED = "agent_drained"
    """Its agent is drained by an operator, and the time that its holder had is over."""
    OPERATOR = "operator"
    """An operator of the farm took it back."""


class DeviceFailed(Message):
    """A device was taken out of a reservation, which goes on with the others; sent by control."""

    event: Literal["device_failed"] = "device_failed"
    reservation: Name
    agent: Name
    device: Name
    reason: FailureReason
    detail: str | None = None


class ReservationExpiring(Message):
    """A lease will soon end; extend it to go on. Sent by control."""

    event: Literal["reservation_expiring"] = "reservation_expiring"
    reservation: Name
    expires_at: UtcTime


class ReservationEnded(Message):
    """A reservation is over; sent by control."""

    event: Literal["reservation_ended"] = "reservation_ended"
    reservation: Name
    reason: EndReason


Event = Annotated[
    EvaluationFinished
    | CommandRefused
    | CommandFinished
    | StreamOpened
    | StreamClosed
    | DeviceReady
    | DeviceUnbound
    | DeviceFailed
    | AgentStopping
    | ReservationExpiring
    | ReservationEnded,
    Field(discriminator="event"),
]
"""Any event; its field `event` says which."""
