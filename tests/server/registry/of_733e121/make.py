"""
Makes the files beside it with the code of commit 733e121; `test_old_files` reads them with today's.

    git worktree add --detach /tmp/old 733e121
    MAKE=$PWD/tests/server/registry/of_733e121/make.py
    cd /tmp/old && PYTHONPATH=adapters:server:. python $MAKE

They were made once and stay. At that commit, manifests had schema 1 and every adapter was a product
at the input.
"""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from galenic_adapters.aliases import Canary
from galenic_adapters.audit import Chain, acting
from galenic_adapters.keys import Role
from galenic_adapters.limits import Limits, SqlLimits
from galenic_adapters.store import SqlStore
from galenic_adapters.tenants import Quota
from galenic_server.tenants import Keys

from galenic_adapters import archive
from galenic_adapters.package import write_metaprompt
from galenic_adapters.refs import AdapterRef
from tests.support.packages import make_metaprompt, make_package

HERE = Path(__file__).parent
SECRET = b"s" * 32


def make() -> None:
    database = HERE / "galenic.db"
    store = SqlStore.open(f"sqlite:///{database}")
    chain = Chain(store.database, SECRET)
    with acting({"by": "environment", "action": "make"}):
        fill(store)
    (HERE / "head.txt").write_text(str(chain.head()))
    (HERE / "clinic.jsonl").write_bytes(b"".join(archive.write(store, "clinic")))
    store.close()
    (HERE / "metaprompt.safetensors").write_bytes(write_metaprompt(make_metaprompt()))
    shrink(database)


def fill(store: SqlStore) -> None:
    store.set_tenant("clinic", quota=Quota(max_adapters=10, max_bytes=1_000_000))
    store.set_tenant("gone", is_suspended=True)
    packages = {
        "rank-1": make_package(1),
        "rank-2": make_package(2, rank=2),
        "third": make_package(3),
    }
    for name, package in packages.items():
        (HERE / f"{name}.safetensors").write_bytes(package.data)
        store.receive("clinic", f"upload-{name}", "diseases", None, package.digest)
        store.publish("clinic", "diseases", package, upload=f"upload-{name}")
    store.delete(AdapterRef("clinic", "diseases", 3), keep=False)
    first, second = (AdapterRef("clinic", "diseases", version) for version in (1, 2))
    store.move_alias("clinic", "ner", second)
    store.move_alias("clinic", "ner", first, canary=Canary(second, 10))
    store.share("clinic", "diseases", ["partner", "*"])
    add_keys(store)
    SqlLimits(store.database).put("clinic", Limits(tokens_per_minute=5000, weight=2.5))


def add_keys(store: SqlStore) -> None:
    keys = Keys(store, SECRET)
    caller, _ = keys.create("clinic", Role.CALLER, label="ward 3")
    admin, _ = keys.create("clinic", Role.ADMIN, expires=datetime.now(UTC) + timedelta(days=36_500))
    revoked, key = keys.create("clinic", Role.CALLER)
    keys.revoke(key.id)
    suspended, _ = keys.create("gone", Role.CALLER)
    (HERE / "keys.txt").write_text("\n".join([caller, admin, revoked, suspended]) + "\n")


def shrink(database: Path) -> None:
    """Store the database in small pages, of which most tables need one."""
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA page_size = 512")
        db.execute("VACUUM")
    db.close()


if __name__ == "__main__":
    make()
