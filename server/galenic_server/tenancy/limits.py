"""
Stores the limits that an admin sets for tenants.
"""

import math
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from galenic_adapters.errors import BadInput, NotFound
from galenic_adapters.refs import check_name
from galenic_server.audit.chain import note
from galenic_server.database.database import Database
from galenic_server.database.tables import tenant_limits

MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Limits what one tenant may use; None is no bound.

    concurrent: requests open at once.   weight: its share of the engine relative to other tenants.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            count = getattr(self, name)
            if count is not None and not 1 <= count <= MOST:
                raise BadInput(name, f"is {count}, not within 1 to {MOST:,}")
        if not (math.isfinite(self.weight) and 0.001 <= self.weight <= 1000):
            raise BadInput("weight", f"is {self.weight}, not within 0.001 to 1,000")


class LimitRows:
    """Stores the limits of tenants that have their own; for others, methods raise `NotFound`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, tenant: str, limits: Limits) -> None:
        row = {"tenant": check_name("tenant", tenant), **asdict(limits)}
        with self._database.writing() as db:
            insert = self._database.insert(tenant_limits).values(row)
            key = [tenant_limits.c.tenant]
            db.execute(insert.on_conflict_do_update(index_elements=key, set_=asdict(limits)))
            note(of=tenant, new=asdict(limits))

    def get(self, tenant: str) -> Limits:
        query = sa.select(tenant_limits).where(tenant_limits.c.tenant == tenant)
        with self._database.reading() as db:
            row = db.execute(query).mappings().first()
        if row is None:
            raise NotFound("no limits of its own are set for this tenant")
        return Limits(**{name: row[name] for name in Limits.__dataclass_fields__})

    def drop(self, tenant: str) -> None:
        drop = tenant_limits.delete().where(tenant_limits.c.tenant == tenant)
        with self._database.writing() as db:
            if not db.execute(drop).rowcount:
                raise NotFound("no limits of its own are set for this tenant")
            note(of=tenant, new=None)
