"""The tables of Postgres, the truth for reservations; functions/ has what is done with them."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


def _time(nullable: bool = False) -> "Column[datetime]":
    return Column(DateTime(timezone=True), nullable=nullable)


class Agent(SQLModel, table=True):
    """An agent as it reported itself last, and what operators want of it."""

    name: str = Field(primary_key=True)
    status: str
    boot_id: str | None = None
    asked_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    """When an operator asked for what follows."""
    drains_until: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    """Until when its devices are their holders', while it is to be drained; else none."""
    restarts: str | None = None
    """The `boot_id` of the process that is to end then; none where it is to stay."""
    asked_by: str | None = None


class Device(SQLModel, table=True):
    """A board as its agent reported it last, and who has it.

    `reservation` is repeated from the live allocation so that the row that an allocation locks
    says itself whether the device is free: under READ COMMITTED only the locked row is rechecked.
    """

    agent: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    product: str
    behaviours: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    labels: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, server_default="{}"))
    status: str
    detail: str | None = None
    online: bool
    """Whether its agent is."""
    away_since: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    """When it was unplugged or its agent went; none while it is there."""
    draining: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )
    """Whether its agent is, so that it is given to nobody."""
    reservation: str | None = Field(default=None, foreign_key="reservation.id")
    note: str | None = None
    """What an operator has written about it; it keeps the row of a device that is gone."""

    __table_args__ = (
        # In the order in which devices are chosen, so that it does not matter how many there are.
        Index(
            "free_device",
            "agent",
            "name",
            postgresql_where=text(
                "reservation IS NULL AND online AND status = 'available' AND NOT draining"
            ),
        ),
        Index("device_noted", "agent", "name", postgresql_where=text("note IS NOT NULL")),
        Index("device_gone", "away_since", postgresql_where=text("status = 'gone'")),
        Index(
            "device_in_trouble",
            "reservation",
            postgresql_where=text(
                "reservation IS NOT NULL AND (status = 'broken' OR away_since IS NOT NULL)"
            ),
        ),
    )


class Reservation(SQLModel, table=True):
    """A client's hold on some devices, from its request to long after its end.

    It is queued until there are devices for it, then active until it ends. What is live is found by
    its session's index; one for each time that matters would cost each reservation more than a look
    at all that are live now and then.
    """

    __table_args__ = (
        Index(
            "reservation_queue",
            text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "reservation_live_session",
            "client",
            "session",
            postgresql_where=text("status <> 'ended'"),
        ),
    )

    id: str = Field(primary_key=True)
    client: str
    session: str
    behaviour: str
    arguments: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    on_session_end: str
    wanted_count: int
    wanted_devices: list[str] | None = Field(
        default=None, sa_column=Column(ARRAY(Text), nullable=True)
    )
    """Exactly these, by name; else any that offer the behaviour."""
    wanted_product: str | None = None
    wanted_labels: dict[str, Any] = Field(
        sa_column=Column(JSONB, nullable=False, server_default="{}")
    )
    device_grace: timedelta = Field(
        sa_column=Column(Interval, nullable=False, server_default=text("'30 s'"))
    )
    duration: timedelta = Field(sa_column=Column(Interval, nullable=False))
    priority: int
    status: str
    created_at: datetime = Field(sa_column=_time())
    waits_until: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    granted_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    """When the lease began or was extended last."""
    expires_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    warns_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    """When the holder is to be told that the lease will end; none when he has been."""
    ended_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    end_reason: str | None = None


class Allocation(SQLModel, table=True):
    """One device in one reservation. The index lets no device have two live ones."""

    __table_args__ = (
        Index(
            "one_live_allocation_per_device",
            "agent",
            "device",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    reservation: str = Field(primary_key=True, foreign_key="reservation.id")
    agent: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    behaviour: str
    arguments: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    generation: int = Field(
        default=1, sa_column=Column(Integer, nullable=False, server_default=text("1"))
    )
    """Of the behaviour and its arguments; each change of them is a new one."""
    started_at: datetime = Field(sa_column=_time())
    ended_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))


class Transition(SQLModel, table=True):
    """A step in the life of a reservation: who, what, when, why; for history, and to be told."""

    __table_args__ = (
        Index("transition_untold", "number", postgresql_where=text("NOT told")),
        Index("transition_of_client", "client", "number"),
        Index("transition_of_reservation", "reservation", "number"),
    )

    number: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = Field(sa_column=_time())
    reservation: str = Field(foreign_key="reservation.id")
    client: str
    session: str
    what: str
    why: str | None = None
    by: str | None = None
    """The client that asked for it; none when control did it by itself."""
    agents: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    devices: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    detail: str | None = None
    told: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """Whether the leading control process has brought it to the broker."""


class Audit(SQLModel, table=True):
    """What an operator asked for, and what came of it."""

    number: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = Field(sa_column=_time())
    who: str
    operation: str
    about: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    dry_run: bool
    outcome: str
    error: str | None = None


class Command(SQLModel, table=True):
    """What an agent is to be told once, until the leading control process does."""

    number: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = Field(sa_column=_time())
    agent: str
    device: str
    operation: str


class Secret(SQLModel, table=True):
    """What all control processes must know and nobody else; the first that needs it makes it."""

    name: str = Field(primary_key=True)
    value: str


class Answer(SQLModel, table=True):
    """The reply to a request, repeated when the request comes again."""

    client: str = Field(primary_key=True)
    session: str = Field(primary_key=True)
    correlation: bytes = Field(primary_key=True)
    reply: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    answered_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, index=True)
    )
