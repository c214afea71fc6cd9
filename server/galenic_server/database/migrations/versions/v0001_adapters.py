"""Adapters, aliases and API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "adapters",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("num_bytes", sa.Integer, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("deleted", MOMENT),
        sa.Column("payload", sa.LargeBinary),
    )
    op.create_index("ix_adapters_digest", "adapters", ["digest"])
    op.create_table(
        "aliases",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "name", "version"], ["adapters.tenant", "adapters.name", "adapters.version"]
        ),
    )
    op.create_index("ix_aliases_target", "aliases", ["tenant", "name", "version"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("hmac_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("expires", MOMENT),
        sa.Column("revoked", MOMENT),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])
