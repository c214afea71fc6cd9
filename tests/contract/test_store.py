"""
What every store keeps to, over SQLite and over PostgreSQL alike.
"""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import sqlite

from galenic_adapters.errors import BadInput, Conflict, NotFound, Unavailable
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_server.database import tables
from galenic_server.database.database import Database
from galenic_server.registry.aliases import Alias, Match, existing
from galenic_server.registry.names import BY_NAME, BY_VERSION
from galenic_server.registry.store import Store
from galenic_server.tenancy.keys import Role
from tests.support.packages import make_package
from tests.support.postgres import Postgres

NORTH_1 = AdapterRef("north", "discharge", 1)
NORTH_2 = AdapterRef("north", "discharge", 2)
MISSING = AdapterRef("north", "discharge", 9)
ONE, OTHER = make_package(1), make_package(2)

HALF_AN_UPLOAD = """
    INSERT INTO adapters (tenant, name, version, digest, manifest, num_bytes, created)
    VALUES ('north', 'discharge', 1, 'sha256:', '{}', 0, '2026-01-31')
"""


def both(*acts: Callable[[], Any]) -> list[Any]:
    """What each of *acts* returns or raises when all begin at once."""
    barrier = Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return act()
        except Conflict as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def pointing_to(ref: AdapterRef) -> Match:
    """As it is while it points to *ref*."""

    def match(alias: Alias | None) -> None:
        existing(alias)
        assert alias is not None, "it exists"
        if alias.ref != ref:
            raise Conflict(f"alias {alias.name} does not point to {ref} any more")

    return match


def targets(store: Store) -> dict[str, AdapterRef]:
    return {name: alias.ref for name, alias in store.aliases.of("north").items()}


class TestPutAndGet:
    def test_gets_what_was_put(self, store: Store) -> None:
        """A package comes back as the bytes it was, under its ref and under its digest."""
        digest = store.versions.put(NORTH_1, ONE)

        assert ONE == store.versions.get(NORTH_1)
        assert ONE.digest == digest == store.versions.get(NORTH_1).digest
        assert ONE.data == store.versions.get(NORTH_1).data
        assert ONE.factor.u_PR.equal(store.packages.get(digest).factor.u_PR)
        assert ONE.factor.v_RD.equal(store.packages.get(digest).factor.v_RD)

    def test_same_bytes_again_are_no_change(self, store: Store) -> None:
        """A client that retries an upload gets the same answer, and the entry stays as it was."""
        store.versions.put(NORTH_1, ONE)
        before = store.versions.describe(NORTH_1)

        assert ONE.digest == store.versions.put(NORTH_1, ONE)
        assert before == store.versions.describe(NORTH_1)

    def test_other_bytes_are_a_conflict(self, store: Store) -> None:
        """A version never changes; the message names both digests."""
        store.versions.put(NORTH_1, ONE)

        with pytest.raises(Conflict) as caught:
            store.versions.put(NORTH_1, OTHER)

        assert ONE.digest in str(caught.value)
        assert OTHER.digest in str(caught.value)
        assert ONE == store.versions.get(NORTH_1)

    def test_put_many_is_all_or_nothing(self, store: Store) -> None:
        """One conflict among many packages, and none of them is visible."""
        store.versions.put(NORTH_2, ONE)

        with pytest.raises(Conflict):
            store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})

        with pytest.raises(NotFound):
            store.versions.get(NORTH_1)

    def test_put_many_puts_many(self, store: Store) -> None:
        refs = [AdapterRef("north", f"a{i}", 1) for i in range(20)]
        store.versions.put_many({ref: make_package(i) for i, ref in enumerate(refs)})
        assert {ref.name for ref in refs} == {
            entry.ref.name for entry in store.versions.of_tenant("north")
        }

    @pytest.mark.parametrize("ask", ["get", "describe", "delete"])
    def test_missing_version(self, store: Store, ask: str) -> None:
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(NotFound, match="discharge@9"):
            getattr(store.versions, ask)(MISSING)

    @pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "", "\0", "\ud800", "x" * 10_000])
    def test_missing_digest(self, store: Store, digest: str) -> None:
        with pytest.raises(NotFound):
            store.packages.get(digest)

    @pytest.mark.parametrize("rotten", [OTHER.data, ONE.data[:-1], b""])
    def test_rotten_bytes_are_not_served(self, store: Store, url: str, rotten: bytes) -> None:
        """Bytes that no longer hash to their digest are an error, never a prompt."""
        digest = store.versions.put(NORTH_1, ONE)
        database = Database.open(url)
        with database.writing() as db:
            db.execute(tables.adapters.update().values(payload=rotten))
        database.close()

        with pytest.raises(Unavailable, match=digest):
            store.packages.get(digest)
        with pytest.raises(Unavailable, match=digest):
            store.versions.get(NORTH_1)


class TestPublish:
    def test_versions_count_up(self, store: Store) -> None:
        assert [NORTH_1, NORTH_2] == [
            store.versions.publish("north", "discharge", ONE) for _ in range(2)
        ]

    def test_each_name_counts_by_itself(self, store: Store) -> None:
        store.versions.publish("north", "discharge", ONE)
        assert 1 == store.versions.publish("north", "letters", ONE).version
        assert 1 == store.versions.publish("south", "discharge", ONE).version

    def test_writers_at_once_get_different_versions(self, open_store: Callable[[], Store]) -> None:
        """Eight writers on two replicas publish one name at once: eight versions, none lost."""
        replicas = [open_store(), open_store()]
        packages = [make_package(i) for i in range(8)]

        refs = both(
            *(
                lambda r=replicas[i % 2], p=package: r.versions.publish("north", "discharge", p)
                for i, package in enumerate(packages)
            )
        )

        assert set(range(1, 9)) == {ref.version for ref in refs}
        assert packages == [replicas[0].versions.get(ref) for ref in refs]

    def test_writers_of_one_version_at_once(self, open_store: Callable[[], Store]) -> None:
        """One of two that put different bytes under one ref wins, and the other gets a conflict."""
        left, right = open_store(), open_store()
        for version in range(1, 11):
            ref = AdapterRef("north", "discharge", version)
            said = both(
                lambda r=ref: left.versions.put(r, ONE), lambda r=ref: right.versions.put(r, OTHER)
            )
            winner = next(one for one in said if isinstance(one, str))
            assert 1 == sum(isinstance(one, Conflict) for one in said)
            assert winner == left.versions.get(ref).digest

    def test_bulk_writers_do_not_deadlock(self, open_store: Callable[[], Store]) -> None:
        left, right = open_store(), open_store()
        packages = {AdapterRef("north", f"a{i}", 1): ONE for i in range(50)}
        backwards = dict(reversed(packages.items()))

        assert [None, None] == both(
            lambda: left.versions.put_many(packages), lambda: right.versions.put_many(backwards)
        )


class TestDelete:
    def test_deleted_is_gone(self, store: Store) -> None:
        """Its bytes are nowhere: not by ref, not by digest, not in a listing, not by name."""
        store.versions.put(NORTH_1, ONE)
        store.versions.delete(NORTH_1)

        for ask in (
            lambda: store.versions.get(NORTH_1),
            lambda: store.versions.describe(NORTH_1),
            lambda: store.versions.delete(NORTH_1),
            lambda: store.packages.get(ONE.digest),
            lambda: store.names.resolve("north", "discharge"),
            lambda: store.names.resolve("north", "discharge@1"),
        ):
            with pytest.raises(NotFound):
                ask()
        assert [] == store.versions.of_tenant("north")

    def test_number_is_never_given_again(self, store: Store) -> None:
        """A cached discharge@1 can never become another adapter."""
        store.versions.put(NORTH_1, ONE)
        store.versions.delete(NORTH_1)

        for package in (ONE, OTHER):
            with pytest.raises(Conflict, match="discharge@1 was deleted"):
                store.versions.put(NORTH_1, package)
        assert NORTH_2 == store.versions.publish("north", "discharge", ONE)

    def test_not_while_an_alias_points_to_it(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        store.aliases.move("north", "ner", NORTH_1)
        store.aliases.move("north", "default", NORTH_1)

        with pytest.raises(Conflict, match="default, ner"):
            store.versions.delete(NORTH_1)

        assert ONE == store.versions.get(NORTH_1)

    def test_same_bytes_elsewhere_stay(self, store: Store) -> None:
        """Two tenants may hold one digest; one's deletion is not the other's."""
        store.versions.put(NORTH_1, ONE)
        store.versions.publish("south", "copy", ONE)
        store.versions.delete(NORTH_1)
        assert ONE.factor.u_PR.equal(store.packages.get(ONE.digest).factor.u_PR)

    def test_never_leaves_an_alias_dangling(self, open_store: Callable[[], Store]) -> None:
        """Delete a version while an alias moves to it: one of the two is refused."""
        left, right = open_store(), open_store()
        for version in range(1, 21):
            ref = left.versions.publish("north", "discharge", ONE)
            alias = f"alias{version}"
            both(
                lambda r=ref: left.versions.delete(r),
                lambda r=ref, a=alias: _quietly(lambda: right.aliases.move("north", a, r)),
            )
            pointing = ref in targets(left).values()
            alive = ref in [e.ref for e in left.versions.of_tenant("north")]
            assert pointing == alive


def _quietly(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except NotFound:
        return None


class TestListing:
    def test_pages_cover_all_in_order(self, store: Store) -> None:
        """Versions sort as numbers; pages neither repeat nor leave out."""
        store.versions.put_many(
            {AdapterRef("north", n, v): ONE for n in ("b", "a") for v in range(1, 12)}
        )

        seen: list[AdapterRef] = []
        while page := store.versions.of_tenant("north", after=seen[-1] if seen else None, limit=5):
            assert len(page) <= 5
            seen += [entry.ref for entry in page]

        assert [AdapterRef("north", n, v) for n in ("a", "b") for v in range(1, 12)] == seen

    def test_says_all_but_the_tensors(self, store: Store) -> None:
        began = datetime.now(UTC)
        store.versions.put(NORTH_1, ONE)
        (entry,) = store.versions.of_tenant("north")

        assert entry == store.versions.describe(NORTH_1)
        assert (NORTH_1, ONE.digest, ONE.manifest) == (entry.ref, entry.digest, entry.manifest)
        assert len(ONE.data) == entry.num_bytes
        assert timedelta() <= entry.created - began < timedelta(minutes=1)

    def test_others_are_not_listed(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        assert [] == store.versions.of_tenant("south")


class TestAliases:
    def test_points_and_moves(self, store: Store) -> None:
        store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.aliases.move("north", "ner", NORTH_1)
        assert NORTH_1 == store.aliases.get("north", "ner").ref

        store.aliases.move("north", "ner", NORTH_2)
        assert {"ner": NORTH_2} == targets(store)

    def test_expected_place(self, store: Store) -> None:
        """A mover who names the old target loses to one who was faster."""
        store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.aliases.move("north", "ner", NORTH_1)
        store.aliases.move("north", "ner", NORTH_2, match=pointing_to(NORTH_1))

        with pytest.raises(Conflict, match="discharge@1"):
            store.aliases.move("north", "ner", NORTH_1, match=pointing_to(NORTH_1))
        with pytest.raises(Conflict):
            store.aliases.move("north", "qa", NORTH_1, match=pointing_to(NORTH_1))

        assert {"ner": NORTH_2} == targets(store)

    def test_one_of_two_movers_wins(self, open_store: Callable[[], Store]) -> None:
        """Two who expect the same old target: one moves it, the other hears a conflict."""
        left, right = open_store(), open_store()
        at, *targets = (
            left.versions.publish("north", "discharge", make_package(i)) for i in range(3)
        )
        left.aliases.move("north", "ner", at)
        for _ in range(10):
            to_left, to_right = (ref for ref in (at, *targets) if ref != at)
            said = both(
                lambda a=at, r=to_left: left.aliases.move("north", "ner", r, match=pointing_to(a)),
                lambda a=at, r=to_right: right.aliases.move(
                    "north", "ner", r, match=pointing_to(a)
                ),
            )
            targets, now = [to_left, to_right, at], left.aliases.get("north", "ner").ref
            assert 1 == sum(isinstance(one, Conflict) for one in said)
            assert now == (to_right if isinstance(said[0], Conflict) else to_left)
            targets.remove(now)
            at = now

    def test_movers_without_expectation_all_succeed(self, open_store: Callable[[], Store]) -> None:
        left, right = open_store(), open_store()
        left.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        moved = both(
            lambda: left.aliases.move("north", "ner", NORTH_1),
            lambda: right.aliases.move("north", "ner", NORTH_2),
        )
        assert [NORTH_1, NORTH_2] == [one.ref for one in moved]
        assert left.aliases.get("north", "ner").ref in (NORTH_1, NORTH_2)

    def test_drops(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        store.aliases.move("north", "ner", NORTH_1)
        store.aliases.drop("north", "ner")

        assert {} == store.aliases.of("north")
        with pytest.raises(NotFound):
            store.aliases.drop("north", "ner")
        with pytest.raises(NotFound):
            store.aliases.get("north", "ner")

    def test_only_to_what_exists(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(NotFound, match="discharge@9"):
            store.aliases.move("north", "ner", MISSING)

    def test_only_to_ones_own(self, store: Store) -> None:
        """South cannot point at North's adapter, and hears just what it hears of a missing one."""
        with pytest.raises(NotFound) as of_nobodys:
            store.aliases.move("south", "ner", NORTH_1)
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(NotFound) as of_norths:
            store.aliases.move("south", "ner", NORTH_1)
        assert str(of_nobodys.value) == str(of_norths.value)

    @pytest.mark.parametrize("alias", ["", "../ner", "Ner", "nеr", "n\0", "\ud800", "n" * 65])
    def test_names_are_names(self, store: Store, alias: str) -> None:
        """What is no name can neither be made nor found, and breaks nothing."""
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(BadInput):
            store.aliases.move("north", alias, NORTH_1)
        with pytest.raises(NotFound):
            store.aliases.get("north", alias)
        with pytest.raises(NotFound):
            store.aliases.drop("north", alias)


class TestResolve:
    def test_by_version_alias_and_name(self, store: Store) -> None:
        """A bare name is its newest version, as a number: 10 comes after 9."""
        store.versions.put_many({AdapterRef("north", "discharge", v): ONE for v in (1, 9, 10)})
        store.aliases.move("north", "ner", NORTH_1)

        for text, version in (("discharge@9", 9), ("ner", 1), ("discharge", 10)):
            found = store.names.resolve("north", text)
            assert AdapterRef("north", "discharge", version) == found.ref
            assert (ONE.digest, ONE.manifest) == (found.digest, found.manifest)

    def test_newest_that_was_not_deleted(self, store: Store) -> None:
        store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.versions.delete(NORTH_2)
        assert NORTH_1 == store.names.resolve("north", "discharge").ref

    def test_alias_before_name(self, store: Store) -> None:
        store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.aliases.move("north", "discharge", NORTH_1)
        assert NORTH_1 == store.names.resolve("north", "discharge").ref

    def test_own_before_shared(self, store: Store) -> None:
        """The zoo serves who has nothing of that name, alias or version; one's own hides it."""
        shared = AdapterRef(SHARED, "zoo-ner", 1)
        store.versions.put(shared, OTHER)
        store.aliases.move(SHARED, "ner", shared)
        for text in ("ner", "zoo-ner", "zoo-ner@1"):
            assert shared == store.names.resolve("north", text).ref

        store.versions.put(NORTH_1, ONE)
        store.aliases.move("north", "ner", NORTH_1)
        assert NORTH_1 == store.names.resolve("north", "ner").ref
        assert shared == store.names.resolve("south", "ner").ref

    def test_another_tenants_looks_like_nobodys(self, store: Store) -> None:
        """The words about North's adapter are, byte for byte, those from before it existed."""
        texts = ("discharge", "discharge@1", "ner")

        def told() -> list[str]:
            said = []
            for text in texts:
                with pytest.raises(NotFound) as caught:
                    store.names.resolve("south", text)
                said.append(str(caught.value))
            return said

        before = told()
        store.versions.put(NORTH_1, ONE)
        store.aliases.move("north", "ner", NORTH_1)
        assert before == told()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "@",
            "a@",
            "@1",
            "a@0",
            "a@-1",
            "a@1@1",
            "a@01",
            "a@1000000000",
            "a@١",
            "../a",
            "A",
            "a\0",
            "\ud800",
            "dischаrge",
            "a" * 10_000,
            "a@" + "9" * 10_000,
            "%",
            "'; drop table",
        ],
    )
    def test_what_is_no_name_is_not_found(self, store: Store, text: str) -> None:
        with pytest.raises(NotFound):
            store.names.resolve("north", text)

    @pytest.mark.parametrize("query", [BY_NAME, BY_VERSION], ids=["name", "version"])
    def test_reads_no_table_through(self, tmp_path: Path, query: sa.CompoundSelect[Any]) -> None:
        """Every step goes by an index, so 100,000 adapters resolve as fast as one."""
        database = Database.open(f"sqlite:///{tmp_path}/galenic.db")
        asked = query.params(tenant="north", shared=SHARED, name="ner", version=1)
        words = asked.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        with database.reading() as db:
            steps = [row.detail for row in db.execute(sa.text(f"EXPLAIN QUERY PLAN {words}"))]
        database.close()

        read = [step for step in steps if "adapters" in step or "aliases" in step]
        assert read
        assert all(step.startswith("SEARCH") and "USING" in step for step in read), steps


class TestKeys:
    HMAC = "ab" * 32

    def test_finds_a_key_by_its_hmac(self, store: Store) -> None:
        key = store.keys.add("north", Role.CALLER, self.HMAC)
        assert key == store.keys.find(self.HMAC)
        with pytest.raises(NotFound):
            store.keys.find("cd" * 32)

    def test_revoked_on_every_replica(self, open_store: Callable[[], Store]) -> None:
        """Revoked by one, unknown to the other at once; it stays listed with its moment."""
        left, right = open_store(), open_store()
        key = left.keys.add("north", Role.TENANT_ADMIN, self.HMAC)
        right.keys.revoke(key.id)

        with pytest.raises(NotFound):
            left.keys.find(self.HMAC)
        (listed,) = left.keys.page()
        assert listed.revoked is not None
        right.keys.revoke(key.id)
        assert [listed] == left.keys.page()

    def test_expires(self, store: Store) -> None:
        now = datetime.now(UTC)
        store.keys.add("north", Role.CALLER, "00" * 32, expires=now - timedelta(seconds=1))
        lasting = store.keys.add("north", Role.CALLER, "11" * 32, expires=now + timedelta(hours=1))

        with pytest.raises(NotFound):
            store.keys.find("00" * 32)
        assert lasting == store.keys.find("11" * 32)

    def test_lists_by_tenant(self, store: Store) -> None:
        north = store.keys.add("north", Role.CALLER, "00" * 32)
        south = store.keys.add("south", Role.ADMIN, "11" * 32)
        assert [north, south] == store.keys.page()
        assert [south] == store.keys.page("south")

    def test_lists_in_pages(self, store: Store) -> None:
        """The oldest first, also of one moment; nobody begins after another's."""
        made = [store.keys.add("north", Role.CALLER, f"{i:02}" * 32) for i in range(7)]
        south = store.keys.add("south", Role.CALLER, "aa" * 32)
        moment = made[3].created
        with store.database.writing() as db:
            db.execute(tables.api_keys.update().values(created=moment))
        ids = sorted(key.id for key in made)

        pages = [store.keys.page("north", after=after, limit=3) for after in (None, ids[2], ids[5])]
        assert ids == [key.id for page in pages for key in page]
        for after in (south.id, "nobody's"):
            with pytest.raises(NotFound):
                store.keys.page("north", after=after)

    def test_a_role_is_held_while_a_key_of_it_opens(self, store: Store) -> None:
        assert not store.keys.has_open("north", Role.ADMIN)
        store.keys.add("north", Role.CALLER, "00" * 32)
        store.keys.add("south", Role.ADMIN, "11" * 32)
        assert not store.keys.has_open("north", Role.ADMIN)
        key = store.keys.add("north", Role.ADMIN, "22" * 32)
        assert store.keys.has_open("north", Role.ADMIN)
        store.keys.revoke(key.id)
        assert not store.keys.has_open("north", Role.ADMIN)

    def test_a_tenant_revokes_its_own_only(self, store: Store) -> None:
        key = store.keys.add("north", Role.CALLER, self.HMAC)
        for other in (
            lambda: store.keys.revoke(key.id, tenant="south"),
            lambda: store.keys.revoke("x"),
        ):
            with pytest.raises(NotFound, match="no such key"):
                other()
        assert key == store.keys.find(self.HMAC)

    def test_an_hmac_stands_once(self, store: Store) -> None:
        store.keys.add("north", Role.CALLER, self.HMAC)
        with pytest.raises(Conflict):
            store.keys.add("south", Role.CALLER, self.HMAC)


class TestOpening:
    def test_migrations_make_the_tables_of_the_code(self, store: Store, url: str) -> None:
        """Nothing that `tables` declares is missing in a migrated database, and nothing is over."""
        database = Database.open(url)
        with database.reading() as db:
            assert [] == compare_metadata(MigrationContext.configure(db), tables.metadata)
        database.close()

    def test_again_keeps_everything(self, open_store: Callable[[], Store]) -> None:
        open_store().versions.put(NORTH_1, ONE)
        assert ONE == open_store().versions.get(NORTH_1)

    def test_replicas_open_an_empty_database_at_once(self, url: str) -> None:
        """Four processes that start on nothing: one makes the tables, the others wait for it."""
        code = (
            f"from galenic_server.database.database import Database; Database.open({url!r}).close()"
        )
        replicas = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
        assert [0] * 4 == [replica.wait(120) for replica in replicas]

    @pytest.mark.parametrize(
        "url", ["", "x", "mysql://h/d", "sqlite://", "postgresql+asyncpg://h/d"]
    )
    def test_only_lasting_sqlite_and_postgresql(self, url: str) -> None:
        with pytest.raises(BadInput, match="database_url"):
            Store.open(url)

    def test_does_not_repeat_the_password(self) -> None:
        for url in ("mysql://u:hunter2@h/d", "hunter2"):
            with pytest.raises(BadInput) as caught:
                Store.open(url)
            assert "hunter2" not in str(caught.value)


class TestFaults:
    def test_postgresql_goes_and_comes_back(self, postgres: Postgres) -> None:
        """While it is away every question is `Unavailable`; once it is back, all is there."""
        store = Store.open(postgres.new_database())
        store.versions.put(NORTH_1, ONE)
        postgres.stop()
        try:
            for ask in (
                lambda: store.versions.get(NORTH_1),
                lambda: store.versions.put(NORTH_2, ONE),
                lambda: store.names.resolve("north", "discharge"),
            ):
                with pytest.raises(Unavailable, match="not answering"):
                    ask()
        finally:
            postgres.start()
        assert ONE == store.versions.get(NORTH_1)
        store.close()

    def test_sqlite_file_goes_and_comes_back(self, tmp_path: Path) -> None:
        store = Store.open(f"sqlite:///{tmp_path}/data/galenic.db")
        store.versions.put(NORTH_1, ONE)
        store.close()  # its pooled connections; it opens others when asked
        (tmp_path / "data").rename(tmp_path / "away")
        with pytest.raises(Unavailable, match="not answering"):
            store.versions.get(NORTH_1)
        (tmp_path / "away").rename(tmp_path / "data")
        assert ONE == store.versions.get(NORTH_1)
        store.close()

    def test_full_disk_leaves_no_part_of_a_version(self, tmp_path: Path) -> None:
        """SQLite told to grow no further: the upload fails in words, and reading goes on."""
        url = f"sqlite:///{tmp_path}/galenic.db"
        Store.open(url).close()
        sa.event.listen(sa.Engine, "connect", _grow_no_further)
        try:
            store = Store.open(url)
            with pytest.raises(Unavailable, match="no room"):
                _fill(store)
            kept = [entry.ref for entry in store.versions.of_tenant("north")]
            assert 0 < len(kept) < 100
            assert len(kept) == len([store.versions.get(ref) for ref in kept])
            store.close()
        finally:
            sa.event.remove(sa.Engine, "connect", _grow_no_further)

    def test_postgresql_dies_amid_an_upload(self, postgres: Postgres) -> None:
        """What was not committed when it died is not there when it is back."""
        url = postgres.new_database()
        database = Database.open(url)
        with pytest.raises(Unavailable):
            _die_amid_an_upload(database, postgres)
        postgres.start()
        with database.reading() as db:
            assert [] == db.execute(sa.select(tables.adapters)).all()
        database.close()

    def test_a_process_dies_amid_an_upload(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/galenic.db"
        code = f"""
            import os, sqlalchemy
            from galenic_server.database.database import Database
            with Database.open({url!r}).writing() as db:
                db.execute(sqlalchemy.text({HALF_AN_UPLOAD!r}))
                os._exit(9)
        """
        assert 9 == subprocess.run([sys.executable, "-c", dedent(code)], check=False).returncode
        store = Store.open(url)
        assert [] == store.versions.of_tenant("north")
        assert NORTH_1 == store.versions.publish("north", "discharge", ONE)
        store.close()

    def test_an_older_release_does_not_touch_a_newer_database(self, url: str) -> None:
        database = Database.open(url)
        with database.writing() as db:
            db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(Unavailable, match="newer release"):
            Store.open(url)

    def test_an_unreachable_database_does_not_open(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable):
            Store.open(f"postgresql://galenic@/d?host={tmp_path}")


def _die_amid_an_upload(database: Database, postgres: Postgres) -> None:
    with database.writing() as db:
        db.execute(sa.text(HALF_AN_UPLOAD))
        postgres.stop()


def _fill(store: Store) -> None:
    for i in range(100):
        store.versions.publish("north", "discharge", make_package(i, description="x" * 4000))


def _grow_no_further(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA max_page_count = 40")


def test_an_act_is_on_the_disk_and_a_note_need_not_be(tmp_path: Path) -> None:
    """
    SQLite syncs each commit of an act (2), of the server's own notes none (1), in any order.
    """
    database = Database.open(f"sqlite:///{tmp_path}/galenic.db")
    said = []
    for is_act in (True, False, True):
        with database.writing(is_act=is_act) as db:
            said.append(db.exec_driver_sql("PRAGMA synchronous").scalar())
    database.close()

    assert [2, 1, 2] == said
