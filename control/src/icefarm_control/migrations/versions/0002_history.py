"""Labels, devices that are away, leases that warn, behaviours by device, and what has happened."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _time(name: str) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _json(name: str) -> "sa.Column[dict[str, Any]]":
    return sa.Column(name, postgresql.JSONB(), nullable=False, server_default="{}")


def upgrade() -> None:
    op.add_column("device", _json("labels"))
    op.add_column("device", sa.Column("detail", sa.String(), nullable=True))
    op.add_column("device", _time("away_since"))
    op.create_index(
        "device_gone", "device", ["away_since"], postgresql_where=sa.text("status = 'gone'")
    )
    op.create_index(
        "device_in_trouble",
        "device",
        ["reservation"],
        postgresql_where=sa.text(
            "reservation IS NOT NULL AND (status = 'broken' OR away_since IS NOT NULL)"
        ),
    )
    op.add_column("reservation", sa.Column("wanted_product", sa.String(), nullable=True))
    op.add_column("reservation", _json("wanted_labels"))
    op.add_column(
        "reservation",
        sa.Column("device_grace", sa.Interval(), nullable=False, server_default=sa.text("'30 s'")),
    )
    op.add_column("reservation", _time("granted_at"))
    op.add_column("reservation", _time("warns_at"))
    op.execute("UPDATE reservation SET granted_at = created_at WHERE expires_at IS NOT NULL")
    op.drop_index("reservation_expiry", "reservation")
    op.add_column("allocation", sa.Column("behaviour", sa.String(), nullable=True))
    op.add_column("allocation", sa.Column("arguments", postgresql.JSONB(), nullable=True))
    op.execute(
        "UPDATE allocation a SET behaviour = r.behaviour, arguments = r.arguments "
        "FROM reservation r WHERE r.id = a.reservation"
    )
    op.alter_column("allocation", "behaviour", nullable=False)
    op.alter_column("allocation", "arguments", nullable=False)
    op.drop_index("ix_device_reservation", "device")
    op.create_table(
        "transition",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reservation", sa.String(), sa.ForeignKey("reservation.id"), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=True),
        sa.Column("by", sa.String(), nullable=True),
        sa.Column("agents", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("devices", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("told", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.create_index(
        "transition_untold", "transition", ["number"], postgresql_where=sa.text("NOT told")
    )
    op.create_index("transition_of_client", "transition", ["client", "number"])
    op.create_index("transition_of_reservation", "transition", ["reservation", "number"])


def downgrade() -> None:
    op.drop_table("transition")
    op.create_index("ix_device_reservation", "device", ["reservation"])
    for column in ("behaviour", "arguments"):
        op.drop_column("allocation", column)
    op.create_index(
        "reservation_expiry",
        "reservation",
        ["expires_at"],
        postgresql_where=sa.text("status = 'active'"),
    )
    for column in ("wanted_product", "wanted_labels", "device_grace", "granted_at", "warns_at"):
        op.drop_column("reservation", column)
    op.drop_index("device_in_trouble", "device")
    op.drop_index("device_gone", "device")
    for column in ("labels", "detail", "away_since"):
        op.drop_column("device", column)
