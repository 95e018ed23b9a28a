"""The error codes of the contract: a fixed list, each one exception class in the client library."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from icefarm_schemas.message import Message


class ErrorCode(StrEnum):
    """Why something was refused or failed."""

    INVALID_REQUEST = "invalid_request"
    """The request is not understood: broken JSON, an unknown field, a value out of range."""
    NOT_AVAILABLE = "not_available"
    """The boards exist, but not enough of them are free now."""
    NO_SUCH_DEVICE = "no_such_device"
    """The farm does not know a device of this name."""
    NO_SUCH_BEHAVIOUR = "no_such_behaviour"
    """No device of the farm offers this behaviour."""
    NO_SUCH_AGENT = "no_such_agent"
    """The farm does not know an agent of this name."""
    NO_SUCH_RESERVATION = "no_such_reservation"
    """The farm does not know a reservation of this id."""
    NOT_HOLDER = "not_holder"
    """The reservation belongs to another client."""
    RESERVATION_ENDED = "reservation_ended"
    """The reservation is over, so its devices no longer listen to its holder."""
    LIMIT_EXCEEDED = "limit_exceeded"
    """A lease longer than the farm allows, or more work than a device queues."""
    INVALID_BITSTREAM = "invalid_bitstream"
    """The bitstream cannot configure this FPGA: its size, format or device is wrong."""
    MEASUREMENT_FAILED = "measurement_failed"
    """The board did not give a measurement; the message says what it did instead."""
    DEVICE_LOST = "device_lost"
    """The device went away or broke while it was held."""
    NOT_SUPPORTED = "not_supported"
    """What the device does now has no such command: a console does not measure bitstreams."""
    INVALID_FIRMWARE = "invalid_firmware"
    """The file is no UF2, is damaged, or is for another chip."""
    STREAM_LOST = "stream_lost"
    """A stream was cut: bytes or a side's connection were lost, or another stream was opened."""
    CONTROL_OFFLINE = "control_offline"
    """No control process is listening to requests."""
    BROKER_UNREACHABLE = "broker_unreachable"
    """The broker cannot be reached, or it refused the connection."""
    NOT_AUTHORISED = "not_authorised"
    """The broker's access list does not allow this to this account."""
    TIMED_OUT = "timed_out"
    """No answer came in time."""
    INTERNAL = "internal"
    """A defect of the farm; its log has the details."""


class Error(Message):
    """What went wrong, for a program (`code`), for a person (`message`), with facts (`details`)."""

    code: ErrorCode
    message: str
    details: dict[str, Any] = Field(default_factory=dict)
