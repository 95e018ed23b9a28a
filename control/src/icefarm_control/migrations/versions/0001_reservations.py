"""Devices, reservations, allocations and remembered answers."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _time(name: str, nullable: bool = False) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, nullable: bool = False, primary_key: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=nullable, primary_key=primary_key)


def upgrade() -> None:
    op.create_table(
        "reservation",
        _text("id", primary_key=True),
        _text("client"),
        _text("session"),
        _text("behaviour"),
        sa.Column("arguments", postgresql.JSONB(), nullable=False),
        _text("on_session_end"),
        sa.Column("wanted_count", sa.Integer(), nullable=False),
        sa.Column("wanted_devices", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("duration", sa.Interval(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        _text("status"),
        _time("created_at"),
        _time("waits_until", nullable=True),
        _time("expires_at", nullable=True),
        _time("ended_at", nullable=True),
        _text("end_reason", nullable=True),
    )
    op.create_index(
        "reservation_expiry",
        "reservation",
        ["expires_at"],
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "reservation_queue",
        "reservation",
        [sa.text("priority DESC"), "created_at", "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "reservation_live_session",
        "reservation",
        ["client", "session"],
        postgresql_where=sa.text("status <> 'ended'"),
    )
    op.create_table(
        "device",
        _text("agent", primary_key=True),
        _text("name", primary_key=True),
        _text("product"),
        sa.Column("behaviours", sa.ARRAY(sa.Text()), nullable=False),
        _text("status"),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("reservation", sa.String(), sa.ForeignKey("reservation.id"), nullable=True),
    )
    op.create_index("ix_device_reservation", "device", ["reservation"])
    op.create_index(
        "free_device",
        "device",
        ["agent", "name"],
        postgresql_where=sa.text("reservation IS NULL AND online AND status = 'available'"),
    )
    op.create_table(
        "allocation",
        sa.Column("reservation", sa.String(), sa.ForeignKey("reservation.id"), primary_key=True),
        _text("agent", primary_key=True),
        _text("device", primary_key=True),
        _time("started_at"),
        _time("ended_at", nullable=True),
    )
    op.create_index(
        "one_live_allocation_per_device",
        "allocation",
        ["agent", "device"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "answer",
        _text("client", primary_key=True),
        _text("session", primary_key=True),
        sa.Column("correlation", sa.LargeBinary(), primary_key=True),
        sa.Column("reply", postgresql.JSONB(), nullable=False),
        _time("answered_at"),
    )
    op.create_index("ix_answer_answered_at", "answer", ["answered_at"])


def downgrade() -> None:
    for table in ("answer", "allocation", "device", "reservation"):
        op.drop_table(table)
