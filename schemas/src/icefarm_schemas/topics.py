"""Every topic of the contract, built and parsed here and nowhere else.

topic.py has what they share.
"""

from dataclasses import dataclass
from typing import Any

from icefarm_schemas.events import Event
from icefarm_schemas.message import Message
from icefarm_schemas.operators import AGENT_COMMANDS, OPERATIONS, AgentWish, LogLine, Note
from icefarm_schemas.requests import REQUESTS, Reply
from icefarm_schemas.states import (
    AgentState,
    Assignment,
    Availability,
    ControlProcessState,
    ControlState,
    DeviceState,
    ReservationState,
    SessionState,
)
from icefarm_schemas.streams import CloseStream, OpenStream, ResetDevices
from icefarm_schemas.topic import (
    BY_LENGTH,
    DEFAULT_ROOT,
    InvalidPayloadError,
    Topic,
    UnknownTopicError,
)


def _find(what: str, name: str, kinds: dict[str, type[Message]]) -> type[Message]:
    try:
        return kinds[name]
    except KeyError:
        known = ", ".join(kinds)
        raise InvalidPayloadError(f"there is no {what} {name!r}; there are {known}") from None


@dataclass(frozen=True)
class ControlStateTopic(Topic, template="control/state", carries=ControlState, retained=True):
    """Whether control is there; written by control and, as its will, by the broker."""


@dataclass(frozen=True)
class ControlProcessTopic(
    Topic,
    template="control/processes/{process}/state",
    carries=ControlProcessState,
    retained=True,
):
    """One of the processes that answer requests; written by it and, as its will, removed."""

    process: str


@dataclass(frozen=True)
class AvailabilityTopic(
    Topic, template="control/availability", carries=Availability, retained=True
):
    """How many devices are free; written by control whenever that changes."""


@dataclass(frozen=True)
class AgentStateTopic(Topic, template="agents/{agent}/state", carries=AgentState, retained=True):
    """Whether an agent is there; written by the agent and, as its will, by the broker."""

    agent: str


@dataclass(frozen=True)
class AgentWishTopic(Topic, template="agents/{agent}/wanted", carries=AgentWish, retained=True):
    """Whether an agent is to be drained; written by control, removed when it is not."""

    agent: str


@dataclass(frozen=True)
class AgentCommandTopic(
    Topic, template="agents/{agent}/commands/{operation}", carries=Message, retained=False
):
    """What an agent is to do at once, for an operator; written by control."""

    agent: str
    operation: str

    def _carried(self) -> Any:
        return _find("command to agents", self.operation, AGENT_COMMANDS)


@dataclass(frozen=True)
class LogTopic(Topic, template="agents/{agent}/log", carries=LogLine, retained=False):
    """The log of an agent, line by line, written by it with QoS 0."""

    agent: str


@dataclass(frozen=True)
class DeviceStateTopic(
    Topic, template="agents/{agent}/devices/{device}/state", carries=DeviceState, retained=True
):
    """What a device is doing; written by its agent, removed when the device is gone."""

    agent: str
    device: str


@dataclass(frozen=True)
class AssignmentTopic(
    Topic, template="agents/{agent}/devices/{device}/assignment", carries=Assignment, retained=True
):
    """Who is to have a device; written by control, removed when the device is free."""

    agent: str
    device: str


@dataclass(frozen=True)
class NoteTopic(
    Topic, template="agents/{agent}/devices/{device}/note", carries=Note, retained=True
):
    """What an operator has noted of a device; written by control, removed with the device."""

    agent: str
    device: str


@dataclass(frozen=True)
class SessionStateTopic(
    Topic, template="clients/{client}/{session}/state", carries=SessionState, retained=True
):
    """Whether a client's process is there; control removes it when it has dealt with its end."""

    client: str
    session: str


@dataclass(frozen=True)
class RepliesTopic(
    Topic, template="clients/{client}/{session}/replies", carries=Reply, retained=False
):
    """Control's answers to the requests of one session."""

    client: str
    session: str


@dataclass(frozen=True)
class EventsTopic(
    Topic, template="clients/{client}/{session}/events", carries=Event, retained=False
):
    """What happens to the reservations of one session; from agents and from control."""

    client: str
    session: str


@dataclass(frozen=True)
class RequestTopic(
    Topic, template="requests/{client}/{session}/{operation}", carries=Message, retained=False
):
    """A request to control, answered on the session's replies topic."""

    client: str
    session: str
    operation: str

    def _carried(self) -> Any:
        return _find("operation", self.operation, REQUESTS)


@dataclass(frozen=True)
class OperatorTopic(
    Topic, template="operators/{client}/{session}/{operation}", carries=Message, retained=False
):
    """A request of an operator to control, answered on the session's replies topic."""

    client: str
    session: str
    operation: str

    def _carried(self) -> Any:
        return _find("operation of operators", self.operation, OPERATIONS)


@dataclass(frozen=True)
class ReservationStateTopic(
    Topic,
    template="reservations/{reservation}/state",
    carries=ReservationState,
    retained=True,
):
    """A live reservation; written by control. Its end is told unretained, then it is removed."""

    reservation: str


@dataclass(frozen=True)
class EvaluateTopic(
    Topic,
    template="reservations/{reservation}/commands/{client}/{session}/evaluate/{evaluation}",
    carries=bytes,
    retained=False,
):
    """A bitstream to be measured; the payload is the bitstream itself.

    It goes to every device of the reservation, or to those that the user properties `device` name.
    """

    reservation: str
    client: str
    session: str
    evaluation: str


@dataclass(frozen=True)
class FlashTopic(
    Topic,
    template="reservations/{reservation}/commands/{client}/{session}/flash/{command}",
    carries=bytes,
    retained=False,
):
    """A firmware of the holder's own; the payload is the UF2 file itself.

    Like a bitstream, it is for every device of the reservation or for those that are named.
    """

    reservation: str
    client: str
    session: str
    command: str


@dataclass(frozen=True)
class ResetTopic(
    Topic,
    template="reservations/{reservation}/commands/{client}/{session}/reset/{command}",
    carries=ResetDevices,
    retained=False,
):
    """Start devices anew in what they do."""

    reservation: str
    client: str
    session: str
    command: str


@dataclass(frozen=True)
class OpenTopic(
    Topic,
    template="reservations/{reservation}/commands/{client}/{session}/open/{stream}",
    carries=OpenStream,
    retained=False,
):
    """Open a stream; its id is eight hexadecimal digits that the client draws."""

    reservation: str
    client: str
    session: str
    stream: str


@dataclass(frozen=True)
class CloseTopic(
    Topic,
    template="reservations/{reservation}/commands/{client}/{session}/close/{stream}",
    carries=CloseStream,
    retained=False,
):
    """Close a stream."""

    reservation: str
    client: str
    session: str
    stream: str


@dataclass(frozen=True)
class StreamUpTopic(
    Topic,
    template="reservations/{reservation}/streams/{device}/{client}/{session}/up",
    carries=bytes,
    retained=False,
):
    """Frames of a stream to a device, written by its holder with QoS 0."""

    reservation: str
    device: str
    client: str
    session: str


@dataclass(frozen=True)
class StreamDownTopic(
    Topic,
    template="reservations/{reservation}/streams/{device}/{client}/{session}/down",
    carries=bytes,
    retained=False,
):
    """Frames of a stream from a device, written by its agent with QoS 0."""

    reservation: str
    device: str
    client: str
    session: str


CommandTopic = EvaluateTopic | FlashTopic | ResetTopic | OpenTopic | CloseTopic
"""What a holder says to the devices of a reservation."""

DEVICE_PROPERTY = "device"
"""The user property that names a command's target device; repeated for several."""


def parse(text: str, root: str = DEFAULT_ROOT) -> Topic:
    """The topic that `text`, as it came over the wire, is.

    Raises:
        UnknownTopicError: it is not under `root`, not in the contract, or holds a forbidden name.
    """
    if not text.startswith(root + "/"):
        raise UnknownTopicError(f"{text!r} is not under {root!r}")
    levels = text[len(root) + 1 :].split("/")
    for kind in BY_LENGTH.get(len(levels), ()):
        try:
            topic = kind.match(levels)
        except ValueError as error:
            raise UnknownTopicError(f"{text!r}: {error}") from error
        if topic is not None:
            return topic
    raise UnknownTopicError(f"the contract has no topic like {text!r}")
