"""
Opens all stores over one database.

Methods of every store block and are thread-safe. They raise `NotFound` for what the tenant does not
have, another tenant's included, and `Unavailable` if the database is away or full; a write that
raises has written nothing.
"""

from dataclasses import dataclass

from galenic_server.database.changes import Changes
from galenic_server.database.database import Database
from galenic_server.database.replicas import Replicas
from galenic_server.registry.aliases import Aliases
from galenic_server.registry.names import Names
from galenic_server.registry.packages import Packages
from galenic_server.registry.shares import Shares
from galenic_server.registry.uploads import Uploads
from galenic_server.registry.versions import Versions
from galenic_server.tenancy.keys import Keys
from galenic_server.tenancy.limits import LimitRows
from galenic_server.tenancy.tenants import UNBOUNDED, Quota, Tenants


@dataclass(frozen=True, slots=True)
class Store:
    """Holds the stores over one database. Classes that need one or two of them take only those."""

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
    packages: Packages

    @classmethod
    def open(cls, url: str, *, default_quota: Quota = UNBOUNDED) -> "Store":
        """Open ``sqlite:///file`` or ``postgresql://…``, and migrate its tables."""
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
            Packages(database),
        )

    def close(self) -> None:
        self.database.close()
