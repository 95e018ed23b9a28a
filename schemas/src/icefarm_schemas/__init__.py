"""The wire contract of iCEFARM: topics, messages, names and error codes.

Everything that crosses the broker is defined here, once. `icefarm_schemas.topics` has the topics,
each with the message it carries.
"""

from icefarm_schemas.errors import Error, ErrorCode
from icefarm_schemas.events import CommandRefused, EvaluationFinished, Event, Measurement
from icefarm_schemas.message import (
    CONTENT_TYPE,
    CONTRACT_VERSION,
    MAX_PAYLOAD_BYTES,
    Message,
    utc_now,
)
from icefarm_schemas.names import MAX_NAME_LENGTH, Name, check_name
from icefarm_schemas.requests import (
    DEFAULT_DURATION,
    ExtendRequest,
    OnSessionEnd,
    Operation,
    ReleaseRequest,
    Reply,
    ReserveRequest,
)
from icefarm_schemas.states import (
    AgentState,
    Assignment,
    ControlState,
    DeviceName,
    DeviceState,
    DeviceStatus,
    EndReason,
    Presence,
    ReservationState,
    ReservationStatus,
    SessionState,
)

__all__ = [
    "CONTENT_TYPE",
    "CONTRACT_VERSION",
    "DEFAULT_DURATION",
    "MAX_NAME_LENGTH",
    "MAX_PAYLOAD_BYTES",
    "AgentState",
    "Assignment",
    "CommandRefused",
    "ControlState",
    "DeviceName",
    "DeviceState",
    "DeviceStatus",
    "EndReason",
    "Error",
    "ErrorCode",
    "EvaluationFinished",
    "Event",
    "ExtendRequest",
    "Measurement",
    "Message",
    "Name",
    "OnSessionEnd",
    "Operation",
    "Presence",
    "ReleaseRequest",
    "Reply",
    "ReservationState",
    "ReservationStatus",
    "ReserveRequest",
    "SessionState",
    "check_name",
    "utc_now",
]
