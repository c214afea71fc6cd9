"""Runs migrations for Alembic on the connection that `Database.open` passes in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
