"""What operators do: agents that are drained, notes, a record of it, and commands to agents."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FREE = "reservation IS NULL AND online AND status = 'available'"


def _free_device(where: str) -> None:
    op.drop_index("free_device", "device")
    op.create_index("free_device", "device", ["agent", "name"], postgresql_where=sa.text(where))


def upgrade() -> None:
    op.create_table(
        "agent",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drains_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restarts", sa.String(), nullable=True),
        sa.Column("asked_by", sa.String(), nullable=True),
    )
    op.add_column(
        "device",
        sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.add_column("device", sa.Column("note", sa.String(), nullable=True))
    _free_device(f"{_FREE} AND NOT draining")
    op.create_index(
        "device_noted", "device", ["agent", "name"], postgresql_where=sa.text("note IS NOT NULL")
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("about", postgresql.JSONB(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
    )
    op.create_table(
        "command",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS drains(agent), concerned_agent(agent)")
    op.drop_table("command")
    op.drop_table("audit")
    op.drop_index("device_noted", "device")
    _free_device(_FREE)
    op.drop_column("device", "note")
    op.drop_column("device", "draining")
    op.drop_table("agent")
