"""
The store's tables, as the newest migration leaves them.

Rows of adapters stay for good, so a version's number never means two things; a deleted one loses
its bytes when its retention ends.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcTime(TypeDecorator[datetime]):
    """Stores a time in UTC; SQLite keeps no time zone, so it is added again on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

adapters = Table(
    "adapters",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(71), nullable=False, index=True),
    Column("manifest", Text, nullable=False),
    Column("num_bytes", Integer, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("deleted", UtcTime, index=True),
    Column("change", BigInteger, nullable=False, server_default="0", index=True),
    Column("signed_by", String(200)),
    Column("signature", Text),
    Column("payload", LargeBinary),  # last, so that listing never reads past it
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("changed", UtcTime, nullable=False),
    Column("change", BigInteger, nullable=False, server_default="0"),  # its ETag
    Column("canary_name", String(64)),
    Column("canary_version", Integer),
    Column("canary_weight", Integer),
    Column("previous_name", String(64)),
    Column("previous_version", Integer),
    ForeignKeyConstraint(
        ["tenant", "name", "version"], ["adapters.tenant", "adapters.name", "adapters.version"]
    ),
    Index("ix_aliases_target", "tenant", "name", "version"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("hmac_sha256", String(64), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("expires", UtcTime),
    Column("revoked", UtcTime),
    Column("label", String(100), nullable=False, server_default=""),
    Column("replaced_by", String(32)),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created", UtcTime, nullable=False),
    Column("suspended", UtcTime),
    Column("max_adapters", Integer),
    Column("max_bytes", BigInteger),
    Column("num_adapters", Integer, nullable=False, server_default="0"),
    Column("num_bytes", BigInteger, nullable=False, server_default="0"),
)

shares = Table(
    "shares",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("grantee", String(64), primary_key=True),
    Index("ix_shares_grantee", "grantee", "tenant", "name"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("asked_version", Integer),
    Column("version", Integer),
    Column("digest", String(71), nullable=False),
    Column("state", String(16), nullable=False),
    Column("faults", Text, nullable=False, server_default="[]"),
    Column("created", UtcTime, nullable=False, index=True),
)

# The counter of changes, which replicas follow. The lock on its one row makes writers queue, so
# that a change becomes visible only after all with smaller numbers.
clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("name", String(128), nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("place", String(200), nullable=False, index=True),
    Column("started", UtcTime, nullable=False),
    Column("heard", UtcTime, nullable=False),
    Column("seen", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("record", Text, nullable=False),
    Column("mac", String(64), nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one row: where `audit` ends
    Column("number", BigInteger, nullable=False),
    Column("mac", String(64), nullable=False),
    Column("seal", String(64), nullable=False),
)

tenant_limits = Table(
    "tenant_limits",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("concurrent", Integer),
    Column("weight", Float, nullable=False),
)
