"""What pages and the REST API show: boards joined with who holds them, reservations, agents."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Board(_View):
    """A board, and the reservation that it is in.

    `status` is that of the board as its agent reports it; `away` when its agent is, and `gone` when
    it was unplugged while somebody holds it. `behaviour` is what its holder has it do, with these
    `arguments`, until `expires_at`. An operator has written the `note`. Of one that is `draining`,
    its agent is drained, so that it is given to nobody.
    """

    agent: str
    name: str
    product: str
    status: str
    detail: str | None = None
    note: str | None = None
    draining: bool = False
    behaviours: list[str]
    labels: dict[str, Any] = Field(default_factory=dict)
    away_since: datetime | None = None
    reservation: str | None = None
    client: str | None = None
    behaviour: str | None = None
    arguments: dict[str, Any] | None = None
    expires_at: datetime | None = None


class BoardDetails(Board):
    """A board, and what only its agent knows.

    `since` is when it came into its status. `in_use` says whether a stream of its holder's is open.
    `repairs` counts how often its agent found it in another state than it should be in, and brought
    it back, since it started. `port` is where it is plugged in.
    """

    since: datetime | None = None
    in_use: bool | None = None
    repairs: int | None = None
    port: str | None = None


class Boards(_View):
    """A page of the boards that were asked for, and how many there are in all."""

    total: int
    boards: list[Board]


class Count(_View):
    """How many boards are free to be reserved, of how many."""

    name: str
    available: int
    held: int
    total: int


class Availability(_View):
    """What could be reserved now, and how many wait."""

    boards: Count
    behaviours: list[Count]
    products: list[Count]
    statuses: dict[str, int]
    queued: int
    active: int


class Agent(_View):
    """An agent and its boards.

    `status` is `online`, `draining` or `offline`. One that an operator has asked to drain has
    `drains_until`; with `restarts`, it is to end then. `version` is that of its software.
    """

    name: str
    status: str
    version: str | None = None
    behaviours: list[str] = Field(default_factory=list)
    asked_at: datetime | None = None
    asked_by: str | None = None
    drains_until: datetime | None = None
    restarts: bool = False
    boards: int = 0
    available: int = 0
    held: int = 0
    broken: int = 0


class HeldBoard(_View):
    """A board of a reservation; `status` is none when the farm does not know it any more."""

    agent: str
    name: str
    behaviour: str
    status: str | None = None


class Reservation(_View):
    """A reservation, with the boards it has, or had at its end.

    `position` in the queue begins with 1. `wanted` is how many boards it asked for.
    """

    id: str
    client: str
    session: str
    status: str
    behaviour: str
    wanted: int
    priority: int
    created_at: datetime
    expires_at: datetime | None = None
    waits_until: datetime | None = None
    position: int | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    boards: list[HeldBoard] = Field(default_factory=list)


class Reservations(_View):
    """A page of reservations, and how many there are in all."""

    total: int
    reservations: list[Reservation]


class Step(_View):
    """A step in the life of a reservation; `by` is who asked for it, none for control itself."""

    number: int
    at: datetime
    reservation: str
    client: str
    what: str
    why: str | None = None
    by: str | None = None
    boards: list[str]
    detail: str | None = None


class Usage(_View):
    """What a user or a board comes to: reservations, and seconds summed over boards."""

    name: str
    agent: str | None = None
    reservations: int
    seconds: float


class Held(_View):
    """How many boards were held on average in the time that begins `at`."""

    at: datetime
    boards: float


class UsageReport(_View):
    """Usage between two moments: by user, by board, and over the time."""

    since: datetime
    until: datetime
    clients: list[Usage]
    boards: list[Usage]
    over_time: list[Held]
