"""What happens to a holder's devices, on `clients/{client}/{session}/events`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from icefarm_schemas.errors import Error
from icefarm_schemas.message import Message, UtcTime
from icefarm_schemas.names import Name


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


Event = Annotated[EvaluationFinished | CommandRefused, Field(discriminator="event")]
"""Any event; its field `event` says which."""
