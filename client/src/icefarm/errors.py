"""One exception class for each error code of the contract."""

from typing import Any, ClassVar

from icefarm_broker import (
    BrokerError,
    BrokerUnreachableError,
    ConnectionLostError,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
    PublishRefusedError,
    RequestTimedOutError,
)
from icefarm_broker import StreamLostError as StreamCutError
from icefarm_schemas import EndReason, Error, ErrorCode

_BY_CODE: dict[ErrorCode, type["FarmError"]] = {}


class FarmError(Exception):
    """What the farm refused or what failed; catch it to catch all of them.

    Attributes:
        code: the code in the contract.
        details: facts for a program, such as how many boards are free.
    """

    code: ClassVar[ErrorCode]

    def __init_subclass__(cls, code: ErrorCode) -> None:
        cls.code = code
        _BY_CODE[code] = cls

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class InvalidRequestError(FarmError, code=ErrorCode.INVALID_REQUEST):
    """Something was asked for that makes no sense, such as a negative duration."""


class NotAvailableError(FarmError, code=ErrorCode.NOT_AVAILABLE):
    """Not enough of the wanted boards are free now."""


class NoSuchBoardError(FarmError, code=ErrorCode.NO_SUCH_DEVICE):
    """The farm has no board of this name."""


class NoSuchBehaviourError(FarmError, code=ErrorCode.NO_SUCH_BEHAVIOUR):
    """No board offers this behaviour."""


class NoSuchAgentError(FarmError, code=ErrorCode.NO_SUCH_AGENT):
    """The farm has no agent of this name."""


class NoSuchReservationError(FarmError, code=ErrorCode.NO_SUCH_RESERVATION):
    """The farm has no reservation of this id."""


class NotHolderError(FarmError, code=ErrorCode.NOT_HOLDER):
    """The reservation is somebody else's."""


class ReservationEndedError(FarmError, code=ErrorCode.RESERVATION_ENDED):
    """The reservation is over; the message says why."""


class LimitExceededError(FarmError, code=ErrorCode.LIMIT_EXCEEDED):
    """More was asked for than the farm allows at a time."""


class InvalidBitstreamError(FarmError, code=ErrorCode.INVALID_BITSTREAM):
    """The bitstream cannot configure the board's FPGA."""


class MeasurementFailedError(FarmError, code=ErrorCode.MEASUREMENT_FAILED):
    """The board gave no measurement."""


class BoardLostError(FarmError, code=ErrorCode.DEVICE_LOST):
    """The board went away or broke while it was held."""


class NotSupportedError(FarmError, code=ErrorCode.NOT_SUPPORTED):
    """What the board does now has no such command; change its behaviour first."""


class InvalidFirmwareError(FarmError, code=ErrorCode.INVALID_FIRMWARE):
    """The file is no UF2, is damaged, or is for another chip."""


class StreamLostError(FarmError, code=ErrorCode.STREAM_LOST):
    """A stream of a board was cut; opening it again is safe."""


class ControlOfflineError(FarmError, code=ErrorCode.CONTROL_OFFLINE):
    """Nobody answers requests: the control process is not running."""


class FarmUnreachableError(FarmError, code=ErrorCode.BROKER_UNREACHABLE):
    """The farm's broker cannot be reached."""


class FarmPermissionError(FarmError, code=ErrorCode.NOT_AUTHORISED):
    """The login is wrong, or the account may not do this."""


class TimedOutError(FarmError, code=ErrorCode.TIMED_OUT):
    """Nothing came in time."""


class InternalFarmError(FarmError, code=ErrorCode.INTERNAL):
    """A defect of the farm; its log has the details."""


def end_reason(error: FarmError) -> EndReason | None:
    """Why a reservation is over, where control said so."""
    reason = error.details.get("reason")
    return EndReason(reason) if reason in set(EndReason) else None


def from_error(error: Error) -> FarmError:
    """The exception for an error that came over the wire."""
    return _BY_CODE[error.code](error.message, error.details)


def from_broker(error: BrokerError) -> FarmError:
    """The exception for what went wrong between this process and the broker."""
    kinds: dict[type[BrokerError], type[FarmError]] = {
        BrokerUnreachableError: FarmUnreachableError,
        ConnectionLostError: FarmUnreachableError,
        LoginRefusedError: FarmPermissionError,
        NotAuthorisedError: FarmPermissionError,
        PublishRefusedError: LimitExceededError,
        RequestTimedOutError: TimedOutError,
        StreamCutError: StreamLostError,
    }
    if isinstance(error, NobodyListensError):
        return ControlOfflineError(
            "the farm's control process is not running, so nobody answers requests; "
            "start it, or ask whoever keeps the farm"
        )
    return kinds.get(type(error), InternalFarmError)(str(error))
