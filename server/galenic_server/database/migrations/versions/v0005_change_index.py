"""Versions are found by the change that brought them, and read newest first."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("ix_adapters_change", "adapters", ["change"])
