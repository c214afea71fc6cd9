"""Tenants with quotas, canaries, shares, signatures, uploads; changes, and who has seen them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _extend()
    _add_tenants()
    _add_shares_and_uploads()
    _add_changes()


def _extend() -> None:
    op.add_column(
        "adapters", sa.Column("change", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column("adapters", sa.Column("signed_by", sa.String(200)))
    op.add_column("adapters", sa.Column("signature", sa.Text))
    op.create_index("ix_adapters_deleted", "adapters", ["deleted"])
    op.add_column("aliases", sa.Column("change", sa.BigInteger, nullable=False, server_default="0"))
    for name, kind in (
        ("canary_name", sa.String(64)),
        ("canary_version", sa.Integer),
        ("canary_weight", sa.Integer),
        ("previous_name", sa.String(64)),
        ("previous_version", sa.Integer),
    ):
        op.add_column("aliases", sa.Column(name, kind))
    op.add_column("api_keys", sa.Column("label", sa.String(100), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("replaced_by", sa.String(32)))


def _add_tenants() -> None:
    """Create a row for every tenant that has an adapter or a key already, with its usage."""
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("suspended", MOMENT),
        sa.Column("max_adapters", sa.Integer),
        sa.Column("max_bytes", sa.BigInteger),
        sa.Column("num_adapters", sa.Integer, nullable=False, server_default="0"),
        sa.Column("num_bytes", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.execute(
        """
        INSERT INTO tenants (name, created, num_adapters, num_bytes)
        SELECT tenant, min(created), sum(held), sum(held * num_bytes) FROM (
            SELECT tenant, created, num_bytes, CASE WHEN payload IS NULL THEN 0 ELSE 1 END AS held
            FROM adapters
            UNION ALL SELECT tenant, created, 0, 0 FROM api_keys
        ) AS known GROUP BY tenant
        """
    )


def _add_shares_and_uploads() -> None:
    op.create_table(
        "shares",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("grantee", sa.String(64), primary_key=True),
    )
    op.create_index("ix_shares_grantee", "shares", ["grantee", "tenant", "name"])
    op.create_table(
        "uploads",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("asked_version", sa.Integer),
        sa.Column("version", sa.Integer),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("faults", sa.Text, nullable=False, server_default="[]"),
        sa.Column("created", MOMENT, nullable=False),
    )
    op.create_index("ix_uploads_created", "uploads", ["created"])


def _add_changes() -> None:
    clock = op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(clock, [{"id": 1, "number": 0}])
    op.create_table(
        "changes",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("place", sa.String(200), nullable=False),
        sa.Column("started", MOMENT, nullable=False),
        sa.Column("heard", MOMENT, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_replicas_place", "replicas", ["place"])
