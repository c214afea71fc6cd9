"""
All that one database holds, as a store for each idea.

Methods of every store block and may be called from any thread. They raise `NotFound` for what the
tenant does not have, another tenant's included, and `Unavailable` where the database is away or
full; a write that raised wrote nothing.
"""

from dataclasses import dataclass

from galenic_server.database.changes import Changes
from galenic_server.database.database import Database
from galenic_server.database.replicas import Replicas
from galenic_server.registry.aliases import Aliases
from galenic_server.registry.factors import Factors
from galenic_server.registry.names import Names
from galenic_server.registry.shares import Shares
from galenic_server.registry.uploads import Uploads
from galenic_server.registry.versions import Versions
from galenic_server.tenancy.keys import Keys
from galenic_server.tenancy.limits import LimitRows
from galenic_server.tenancy.tenants import UNBOUNDED, Quota, Tenants


@dataclass(frozen=True, slots=True)
class Store:
    """The stores over one database. Whoever needs one or two of them takes those, not this."""

    database: Database
    changes: Changes
    replicas: Replicas
    tenants: Tenants
    keys: Keys
    limits: LimitRows
    aliases: Aliases
    shares: Shares
    uploads: Uploads
    versions: Versions
    names: Names
    factors: Factors

    @classmethod
    def open(cls, url: str, *, default_quota: Quota = UNBOUNDED) -> "Store":
        """Open ``sqlite:///file`` or ``postgresql://…``, and bring its tables up to date."""
        return cls.over(Database.open(url), default_quota=default_quota)

    @classmethod
    def over(cls, database: Database, *, default_quota: Quota = UNBOUNDED) -> "Store":
        changes = Changes(database)
        tenants = Tenants(changes, default_quota)
        uploads = Uploads(database)
        return cls(
            database,
            changes,
            Replicas(database),
            tenants,
            Keys(changes, tenants),
            LimitRows(database),
            Aliases(changes),
            Shares(changes),
            uploads,
            Versions(changes, tenants, uploads),
            Names(database),
            Factors(database),
        )

    def close(self) -> None:
        self.database.close()
