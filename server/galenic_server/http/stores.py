"""
Dependencies by which routes get the stores and the publisher.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from galenic_server.database.replicas import Replicas
from galenic_server.http.deps import parts_of
from galenic_server.registry.aliases import Aliases
from galenic_server.registry.names import Names
from galenic_server.registry.publisher import Publisher
from galenic_server.registry.shares import Shares
from galenic_server.registry.store import Store
from galenic_server.registry.uploads import Uploads
from galenic_server.registry.versions import Versions
from galenic_server.tenancy.tenants import Tenants

T = TypeVar("T")


def _stored(pick: Callable[[Store], T]) -> Callable[[Request], Awaitable[T]]:
    async def stored(request: Request) -> T:
        return pick(parts_of(request).store)

    return stored


async def _publisher(request: Request) -> Publisher:
    return parts_of(request).publisher


StoreDep = Annotated[Store, Depends(_stored(lambda store: store))]
AliasesDep = Annotated[Aliases, Depends(_stored(lambda store: store.aliases))]
NamesDep = Annotated[Names, Depends(_stored(lambda store: store.names))]
ReplicasDep = Annotated[Replicas, Depends(_stored(lambda store: store.replicas))]
SharesDep = Annotated[Shares, Depends(_stored(lambda store: store.shares))]
TenantsDep = Annotated[Tenants, Depends(_stored(lambda store: store.tenants))]
UploadsDep = Annotated[Uploads, Depends(_stored(lambda store: store.uploads))]
VersionsDep = Annotated[Versions, Depends(_stored(lambda store: store.versions))]
PublisherDep = Annotated[Publisher, Depends(_publisher)]
