"""How Alembic runs a migration: on the connection that `database.migrate` gives it."""

from alembic import context
from sqlmodel import SQLModel

from icefarm_control import tables  # noqa: F401  (fills the metadata)

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata
)
with context.begin_transaction():
    context.run_migrations()
