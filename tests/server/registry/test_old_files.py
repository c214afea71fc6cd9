"""
Files made by commit 733e121 are read by today's code: a database, an archive, packages and a
metaprompt. `of_733e121/make.py` made them.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from galenic_adapters.errors import NotFound
from galenic_adapters.package.file import Package, read_metaprompt
from galenic_adapters.refs import AdapterRef
from galenic_server.audit.chain import Chain, Head
from galenic_server.registry.aliases import Canary
from galenic_server.registry.publisher import Publisher
from galenic_server.registry.shares import EVERYONE, Share
from galenic_server.registry.store import Store
from galenic_server.tenancy.keyring import Keyring
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.limits import Limits
from galenic_server.tenancy.tenants import Quota
from tests.support.packages import make_factor, make_fit, make_metaprompt

OLD = Path(__file__).parent / "of_733e121"
SECRET = b"s" * 32
FIRST, SECOND, THIRD = (AdapterRef("clinic", "diseases", version) for version in (1, 2, 3))
NO_ENGINE: Any = None


def package(name: str) -> Package:
    return Package.read((OLD / f"{name}.safetensors").read_bytes())


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    """Opens a database of *tmp_path* by its name."""
    stores = []

    def open_one(name: str) -> Store:
        stores.append(Store.open(f"sqlite:///{tmp_path / name}"))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(tmp_path: Path, opened: Callable[[str], Store]) -> Store:
    """The old database, opened and migrated."""
    shutil.copy(OLD / "galenic.db", tmp_path)
    return opened("galenic.db")


class TestAnOldPackage:
    @pytest.mark.parametrize(("name", "seed", "rank"), [("rank-1", 1, 1), ("rank-2", 2, 2)])
    def test_keeps_its_factor_and_fits_this_server(self, name: str, seed: int, rank: int):
        """
        A package of schema 1 is read as one of schema 2, with the same bytes and digest.
        """
        read, factor = package(name), make_factor(seed, rank)
        make_fit().check(read)

        assert (rank, 4) == (read.manifest.rank, read.manifest.num_positions)
        assert ("input",) == read.manifest.forms
        assert factor.tensors.keys() == read.factor.tensors.keys()
        assert all(torch.equal(factor.tensors[name], read.factor.tensors[name]) for name in "uv")

    def test_acts_on_the_old_metaprompt(self):
        """
        A metaprompt's file keeps its digest, by which old packages name it.
        """
        metaprompt = read_metaprompt((OLD / "metaprompt.safetensors").read_bytes())

        assert package("rank-1").manifest.metaprompt == metaprompt.digest
        assert make_metaprompt().digest == metaprompt.digest


class TestAnOldDatabase:
    def test_keeps_tenants_with_quotas_and_limits(self, store: Store):
        """
        Tenants keep their usage, quotas, limits and suspensions.
        """
        clinic, gone = store.tenants.page()

        num_bytes = sum(len(package(name).data) for name in ("rank-1", "rank-2"))

        assert ("clinic", None, "gone") == (clinic.name, clinic.suspended, gone.name)
        assert gone.suspended is not None
        assert Quota(max_adapters=10, max_bytes=1_000_000) == clinic.quota
        assert (2, num_bytes) == (clinic.num_adapters, clinic.num_bytes)
        assert Limits(tokens_per_minute=5000, weight=2.5) == store.limits.get("clinic")

    def test_opens_to_the_keys_it_opened_to(self, store: Store):
        """
        A caller's and an admin's key are valid; revoked keys and a suspended tenant's are not.
        """
        keyring = Keyring(store.keys, store.tenants, store.changes, secrets=[SECRET])
        found = [keyring.find(key) for key in (OLD / "keys.txt").read_text().split()]

        assert [("clinic", Role.CALLER), ("clinic", Role.ADMIN), None, None] == [
            caller and (caller.tenant, caller.role) for caller in found
        ]
        assert {"", "ward 3"} == {key.label for key in keyring.of("clinic")}

    def test_serves_its_versions(self, store: Store):
        """
        Every version has its old bytes; a deleted one's number stays taken.
        """
        entries = store.versions.of_name("clinic", "diseases")

        assert {FIRST, SECOND} == {entry.ref for entry in entries}
        assert package("rank-1").digest == store.versions.describe(FIRST).digest
        assert package("rank-2").data == store.versions.get(SECOND).data
        assert package("rank-2").digest == store.packages.get(package("rank-2").digest).digest
        with pytest.raises(NotFound):
            store.versions.get(THIRD)
        assert 4 == store.versions.publish("clinic", "diseases", package("third")).version

    def test_keeps_aliases_shares_and_uploads(self, store: Store):
        """
        An alias keeps its canary and its previous version; a share keeps its tenants.
        """
        alias = store.aliases.get("clinic", "ner")

        assert (FIRST, Canary(SECOND, 10), SECOND) == (alias.ref, alias.canary, alias.previous)
        assert [Share("clinic", "diseases", (EVERYONE, "partner"))] == store.shares.of("clinic")
        assert FIRST == store.names.resolve("partner", "clinic/diseases@1").ref
        assert SECOND == store.uploads.get("clinic", "upload-rank-2").ref

    def test_holds_an_audit_chain_that_continues(self, store: Store):
        """
        The chain verifies up to the head that was noted then, and takes new rows.
        """
        chain = Chain(store.database, SECRET)
        noted = Head.parse((OLD / "head.txt").read_text())

        assert noted == chain.verify(noted)
        chain.append([{"by": "today"}])
        assert noted.number + 1 == chain.verify(noted).number


class TestAnOldArchive:
    def test_brings_its_tenant(self, opened: Callable[[str], Store]):
        """
        Import restores versions, the taken number of a deleted version, alias and share.
        """
        store = opened("new.db")
        counts = Publisher(store, NO_ENGINE, fit=make_fit()).bring("branch", archive_lines)

        assert {"adapter": 2, "deleted": 1, "alias": 1, "share": 1} == counts
        mine = [AdapterRef("branch", ref.name, ref.version) for ref in (FIRST, SECOND)]
        assert [package("rank-1").data, package("rank-2").data] == [
            store.versions.get(ref).data for ref in mine
        ]
        assert 4 == store.versions.publish("branch", "diseases", package("third")).version
        alias = store.aliases.get("branch", "ner")
        assert (mine[0], Canary(mine[1], 10)) == (alias.ref, alias.canary)
        assert (EVERYONE, "partner") == store.shares.of("branch")[0].tenants


def archive_lines() -> Iterable[bytes]:
    return (OLD / "clinic.jsonl").read_bytes().splitlines(keepends=True)
