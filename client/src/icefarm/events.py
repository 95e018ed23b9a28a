"""What happens to boards and reservations, for handlers that are registered with `on`."""

from dataclasses import dataclass
from datetime import datetime

from icefarm_schemas import (
    AgentStopping as AgentStoppingMessage,
)
from icefarm_schemas import (
    DeviceFailed,
    DeviceReady,
    DeviceUnbound,
    EndReason,
    FailureReason,
    Message,
)
from icefarm_schemas import (
    ReservationEnded as ReservationEndedMessage,
)
from icefarm_schemas import (
    ReservationExpiring as ReservationExpiringMessage,
)


@dataclass(frozen=True)
class BoardsAvailable:
    """Boards have become free, whoever had them.

    Attributes:
        available: how many are free now.
        behaviours: of these, how many offer each behaviour.
    """

    available: int
    behaviours: dict[str, int]


@dataclass(frozen=True)
class BoardReady:
    """A board of yours does what it was reserved for, at first or again.

    Attributes:
        reservation: the id of yours that it is about.
        board: the board's name.
        agent: the machine that it is plugged into.
        behaviour: what it does.
    """

    reservation: str
    board: str
    agent: str
    behaviour: str


@dataclass(frozen=True)
class BoardUnbound:
    """A board of yours does no longer what it did.

    Its reservation is over, its behaviour is being changed, or its agent is being stopped.

    Attributes:
        reservation: the id of yours that it is about.
        board: the board's name.
        agent: the machine that it is plugged into.
    """

    reservation: str
    board: str
    agent: str


@dataclass(frozen=True)
class BoardFailed:
    """A board was taken out of your reservation, which goes on with the others.

    Attributes:
        reservation: the id of yours that it is about.
        board: the board's name.
        agent: the machine that it is plugged into.
        reason: it broke, was unplugged, its agent is gone or drained, or an operator took it.
        detail: what is wrong with it, where that is known.
    """

    reservation: str
    board: str
    agent: str
    reason: FailureReason
    detail: str | None


@dataclass(frozen=True)
class AgentStopping:
    """An agent is being stopped, and with it boards of yours.

    Attributes:
        reservation: the id of yours that it is about.
        agent: its name.
        boards: the names of those boards.
        until: for how long it waits at most for you to be done with them; None where it ends now.
    """

    reservation: str
    agent: str
    boards: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True)
class ReservationExpiring:
    """The lease of your reservation ends soon, unless it is extended.

    Attributes:
        reservation: the id of yours that it is about.
        expires_at: when, in UTC.
    """

    reservation: str
    expires_at: datetime


@dataclass(frozen=True)
class ReservationEnded:
    """Your reservation is over, though you did not release it here.

    Attributes:
        reservation: the id of yours that it is about.
        reason: why, such as expired, or that its last board was lost; None where nobody knows.
    """

    reservation: str
    reason: EndReason | None


FarmEvent = (
    BoardsAvailable
    | BoardReady
    | BoardUnbound
    | BoardFailed
    | AgentStopping
    | ReservationExpiring
    | ReservationEnded
)
"""Any of them."""


def from_message(message: Message) -> FarmEvent | None:
    """The event in a message; None where the message is the answer to a command."""
    match message:
        case DeviceReady(reservation=of, device=board, agent=agent, behaviour=behaviour):
            return BoardReady(of, board, agent, behaviour)
        case DeviceUnbound(reservation=of, device=board, agent=agent):
            return BoardUnbound(of, board, agent)
        case DeviceFailed(reservation=of, device=board, agent=agent) as failed:
            return BoardFailed(of, board, agent, failed.reason, failed.detail)
        case AgentStoppingMessage(reservation=of, agent=agent, devices=boards, until=until):
            return AgentStopping(of, agent, boards, until)
        case ReservationExpiringMessage(reservation=of, expires_at=expires_at):
            return ReservationExpiring(of, expires_at)
        case ReservationEndedMessage(reservation=of, reason=reason):
            return ReservationEnded(of, reason)
        case _:
            return None
