"""
Many adapters at a time, over SQLite and over PostgreSQL alike.
"""

import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent
from threading import Thread

import sqlalchemy as sa

from galenic_adapters.errors import Conflict, QuotaExceeded
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.refs import AdapterRef
from galenic_server.database.changes import Kind
from galenic_server.database.tables import adapters
from galenic_server.registry.offers import Candidate, Published
from galenic_server.registry.store import Store
from galenic_server.tenancy.tenants import Quota
from tests.support.packages import BACKBONE, make_metaprompt, make_package

META = make_metaprompt().digest
ONE, OTHER = make_package(1), make_package(2)

NUM_BATCHES, BATCH = 20, 50
WRITER = """
    import sys
    from galenic_server.registry.store import Store
    from tests.contract.test_many import batch

    store = Store.open(sys.argv[1])
    for number in range({num_batches}):
        store.versions.publish_many("north", batch(number))
        print(number, flush=True)
"""


def batch(number: int) -> list[Candidate]:
    seeds = range(number * BATCH, (number + 1) * BATCH)
    return [Candidate(f"a-{seed}", make_package(seed)) for seed in seeds]


def ref(name: str, version: int = 1) -> AdapterRef:
    return AdapterRef("north", name, version)


class TestBulkReading:
    def test_is_of_what_fits_newest_first(self, store: Store) -> None:
        """
        No deleted one, none of another backbone or metaprompt, bytes that two tenants have once.
        """
        foreign = BackboneId(name="Other_100%", revision="1")
        packages = [make_package(seed) for seed in range(5)]
        for seed, package in enumerate(packages):
            store.versions.put(ref(f"a-{seed}"), package)
        store.versions.put(AdapterRef("south", "same", 1), packages[4])
        store.versions.delete(ref("a-1"))
        store.versions.put(ref("b"), make_package(9, backbone=foreign))
        store.versions.put(ref("c"), make_package(9, metaprompt="sha256:" + "0" * 64))

        digests = [packages[seed].digest for seed in (4, 3, 2, 0)]
        assert digests == store.packages.newest(BACKBONE, {META}, 10)
        assert digests[:2] == store.packages.newest(BACKBONE, {META}, 3)
        assert [make_package(9, backbone=foreign).digest] == store.packages.newest(
            foreign, {META}, 10
        )

    def test_brings_factors_that_are_whole(self, store: Store) -> None:
        """
        More than one question can ask for; what is unknown, deleted or damaged is left out.
        """
        packages = {ref(f"a-{seed}"): make_package(seed) for seed in range(600)}
        store.versions.put_many(packages)
        store.versions.delete(ref("a-1"))
        rotten = adapters.update().where(adapters.c.name == "a-2").values(payload=b"rotten")
        with store.database.writing() as db:
            db.execute(rotten)
        wanted = [package.digest for package in packages.values()]

        found = store.packages.get_many([*wanted, "sha256:" + "0" * 64])

        assert set(wanted[:1] + wanted[3:]) == found.keys()
        for package in (packages[ref("a-0")], packages[ref("a-599")]):
            assert package.factor.u_PR.equal(found[package.digest].factor.u_PR)
            assert package.factor.v_RD.equal(found[package.digest].factor.v_RD)

    def test_finds_what_a_change_brought(self, store: Store) -> None:
        """
        A replica that hears of a change learns the digests of all that came with it.
        """
        before = store.changes.newest()
        store.versions.put_many({ref("a"): ONE, ref("b"): OTHER})
        store.versions.put(ref("c"), make_package(3))
        numbers = [change.number for change in store.changes.after(before)]

        assert {ONE.digest, OTHER.digest} == set(store.packages.brought_by(numbers[:1]))
        assert {make_package(3).digest} == set(store.packages.brought_by(numbers[1:]))
        assert [] == store.packages.brought_by([])


class TestBulkWriting:
    def test_is_one_change_and_twice_is_as_once(self, store: Store) -> None:
        """
        The bytes are found among all versions of a name, whether a version was given or not.
        """
        wanted = [Candidate("a", ONE), Candidate("b", ONE, version=7), Candidate("a", OTHER)]
        before = store.changes.newest()
        once = store.versions.publish_many("north", wanted)
        again = store.versions.publish_many("north", wanted)

        refs = [ref("a", 1), ref("b", 7), ref("a", 2)]
        assert [Published(it, is_new=True) for it in refs] == once
        assert [Published(it, is_new=False) for it in refs] == again
        assert [Kind.ADAPTER] == [change.kind for change in store.changes.after(before)]
        assert [ONE, ONE, OTHER] == [store.versions.get(it) for it in refs]
        assert (3, 3 * len(ONE.data)) == (
            store.tenants.get("north").num_adapters,
            store.tenants.get("north").num_bytes,
        )

    def test_one_that_cannot_be_leaves_the_others(self, store: Store) -> None:
        """
        Other bytes under a version that is there, or was; the rest is written.
        """
        store.versions.put_many({ref("taken"): ONE, ref("gone"): ONE})
        store.versions.delete(ref("gone"))
        told = store.versions.publish_many(
            "north",
            [
                Candidate("taken", OTHER, version=1),
                Candidate("gone", ONE, version=1),
                Candidate("gone", ONE),
                Candidate("new", OTHER),
            ],
        )

        assert [Conflict, Conflict] == [type(one) for one in told[:2]]
        assert [Published(ref("gone", 2), True), Published(ref("new"), True)] == told[2:]
        assert OTHER == store.versions.get(ref("new"))

    def test_stops_at_the_quota(self, store: Store) -> None:
        """
        Two of three have room; what is there already needs none.
        """
        store.tenants.put("north", quota=Quota(max_adapters=2))
        packages = [make_package(seed) for seed in range(3)]
        wanted = [Candidate(f"a-{seed}", package) for seed, package in enumerate(packages)]
        once, again = (store.versions.publish_many("north", wanted) for _ in range(2))

        assert [Published, Published, QuotaExceeded] == [type(one) for one in once]
        assert [False, False] == [one.is_new for one in again if isinstance(one, Published)]
        assert 2 == store.tenants.get("north").num_adapters

    def test_two_who_bring_the_same_write_it_once(self, open_store: Callable[[], Store]) -> None:
        """
        200 adapters from two replicas at once: 200 rows, each one's version 1.
        """
        wanted = [Candidate(f"a-{seed}", make_package(seed)) for seed in range(200)]
        stores = [open_store(), open_store()]
        threads = [
            Thread(target=one.versions.publish_many, args=("north", wanted)) for one in stores
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        with stores[0].database.reading() as db:
            versions = list(db.scalars(sa.select(adapters.c.version)))
        assert [1] * 200 == versions
        assert 200 == stores[0].tenants.get("north").num_adapters

    def test_killed_in_the_middle_it_leaves_whole_adapters_only(
        self, url: str, open_store: Callable[[], Store]
    ) -> None:
        """
        Whole batches, every byte of each, and counted; sent again, what was missing is new.
        """
        program = dedent(WRITER).format(num_batches=NUM_BATCHES)
        with subprocess.Popen(
            [sys.executable, "-c", program, url], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None, "it is a pipe"
            writer.stdout.readline()
            writer.kill()
        store = open_store()
        digests = store.packages.newest(BACKBONE, {META}, NUM_BATCHES * BATCH)
        again = [store.versions.publish_many("north", batch(number)) for number in range(3)]

        assert digests, "one batch was written"
        assert 0 == len(digests) % BATCH
        assert set(digests) == store.packages.get_many(digests).keys()
        num_there = sum(not one.is_new for told in again for one in told)
        assert min(3 * BATCH, len(digests)) == num_there
        assert max(3 * BATCH, len(digests)) == store.tenants.get("north").num_adapters
