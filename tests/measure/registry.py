"""
How fast the registry is when it is large: ``python -m tests.measure.registry``.

10,000 tenants with 10 adapters and an alias each, on SQLite and on PostgreSQL: what listing, paging
and resolving take, and what authentication and tenancy add to a request.
"""

import asyncio
import hashlib
import hmac
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anyio.to_thread import run_sync

from galenic_adapters.refs import AdapterRef
from galenic_server.answering.service import Service
from galenic_server.registry.store import Store
from galenic_server.tenancy.keyring import Keyring, new_key
from galenic_server.tenancy.keys import Role
from tests.support.packages import make_fit, make_package
from tests.support.postgres import Postgres

NUM_TENANTS, NUM_ADAPTERS, NUM_TRIES = 10_000, 10, 3000
SECRET = b"figures"


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    postgres = Postgres()
    try:
        postgres.start()
        with tempfile.TemporaryDirectory() as folder:
            yield {
                "SQLite": f"sqlite:///{Path(folder) / 'galenic.db'}",
                "PostgreSQL": postgres.new_database(),
            }
    finally:
        postgres.close()


def tenant(i: int) -> str:
    return f"hospital-{i:05}"


def fill(store: Store) -> None:
    packages = [make_package(i) for i in range(NUM_ADAPTERS)]
    for first in range(0, NUM_TENANTS, 50):
        store.versions.put_many(
            {
                AdapterRef(tenant(i), f"task-{j}", 1): package
                for i in range(first, first + 50)
                for j, package in enumerate(packages)
            }
        )
    for i in range(0, NUM_TENANTS, 10):
        store.aliases.move(tenant(i), "live", AdapterRef(tenant(i), "task-3", 1))


def told(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    sys.stdout.write(f"  {name:<44} p50 {p50:7.3f} ms   p99 {p99:7.3f} ms\n")


def times(act: Callable[[], Any]) -> list[float]:
    seconds = []
    for _ in range(NUM_TRIES):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(store: Store) -> None:
    draw = random.Random(0)

    def anyone() -> str:
        return tenant(draw.randrange(NUM_TENANTS))

    def aliased() -> str:
        return tenant(draw.randrange(NUM_TENANTS // 10) * 10)

    def paged() -> None:
        who = anyone()
        after = AdapterRef(who, f"task-{draw.randrange(NUM_ADAPTERS)}", 1)
        store.versions.of_tenant(who, after=after, limit=5)

    told("list a tenant's adapters", times(lambda: store.versions.of_tenant(anyone())))
    told("page through them", times(paged))
    told("list tenants, a page of 100", times(lambda: store.tenants.page(after=anyone())))
    told("list a tenant's aliases", times(lambda: store.aliases.of(aliased())))
    told("resolve name@version", times(lambda: store.names.resolve(anyone(), "task-7@1")))
    told("resolve a bare name", times(lambda: store.names.resolve(anyone(), "task-7")))
    told("resolve an alias", times(lambda: store.names.resolve(aliased(), "live")))


async def added(store: Store) -> None:
    """To a request: who asks, and what it means by a name; met before, and for the first time."""
    keys = Keyring(store.keys, store.tenants, store.changes, secrets=[SECRET])
    engine: Any = SimpleNamespace()
    service = Service(store.names, store.changes, engine, fit=make_fit(), is_open=lambda: True)
    draw, texts = random.Random(1), {}
    for i in draw.sample(range(NUM_TENANTS), 500):
        texts[i] = new_key()
        mac = hmac.new(SECRET, texts[i].encode(), hashlib.sha256).hexdigest()
        store.keys.add(tenant(i), Role.CALLER, mac)
    seen = store.changes.newest()

    async def once(i: int) -> float:
        began = time.perf_counter()
        caller = keys.recall(texts[i]) or await run_sync(keys.find, texts[i])
        assert caller is not None
        await service.resolve(caller.tenant, "task-7")
        return time.perf_counter() - began

    store.changes.catch_up(seen)
    first = [await once(i) for i in texts]
    again = []
    for _ in range(6):
        store.changes.catch_up(seen)
        again += [await once(i) for i in texts]
    told("added to a tenant's first request", first)
    told("added to the next ones", again)


def main() -> None:
    with databases() as found:
        for name, url in found.items():
            store = Store.open(url)
            began = time.perf_counter()
            fill(store)
            sys.stdout.write(f"{name}: filled in {time.perf_counter() - began:.0f} s\n")
            measure(store)
            asyncio.run(added(store))
            store.close()


if __name__ == "__main__":
    main()
