"""The tables of Postgres, the truth for reservations. Queries are SQL, where they are used."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, Column, DateTime, Index, Interval, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


def _time(nullable: bool = False) -> "Column[datetime]":
    return Column(DateTime(timezone=True), nullable=nullable)


class Device(SQLModel, table=True):
    """A board as its agent reported it last, and who has it.

    `reservation` is repeated from the live allocation so that the row that an allocation locks
    says itself whether the device is free: under READ COMMITTED only the locked row is rechecked.
    """

    agent: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    product: str
    behaviours: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    status: str
    online: bool
    """Whether its agent is."""
    reservation: str | None = Field(default=None, foreign_key="reservation.id", index=True)

    __table_args__ = (
        # In the order in which devices are chosen, so that it does not matter how many there are.
        Index(
            "free_device",
            "agent",
            "name",
            postgresql_where=text("reservation IS NULL AND online AND status = 'available'"),
        ),
    )


class Reservation(SQLModel, table=True):
    """A client's hold on some devices, from its request to long after its end.

    It is queued until there are devices for it, then active until it ends.
    """

    __table_args__ = (
        Index("reservation_expiry", "expires_at", postgresql_where=text("status = 'active'")),
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
    duration: timedelta = Field(sa_column=Column(Interval, nullable=False))
    priority: int
    status: str
    created_at: datetime = Field(sa_column=_time())
    waits_until: datetime | None = Field(default=None, sa_column=_time(nullable=True))
    expires_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))
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
    started_at: datetime = Field(sa_column=_time())
    ended_at: datetime | None = Field(default=None, sa_column=_time(nullable=True))


class Answer(SQLModel, table=True):
    """The reply to a request, repeated when the request comes again."""

    client: str = Field(primary_key=True)
    session: str = Field(primary_key=True)
    correlation: bytes = Field(primary_key=True)
    reply: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    answered_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, index=True)
    )
