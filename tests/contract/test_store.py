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
from galenic_server.registry.store import BY_NAME, BY_VERSION, Role, SqlStore
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


def targets(store: SqlStore) -> dict[str, AdapterRef]:
    return {name: alias.ref for name, alias in store.aliases("north").items()}


class TestPutAndGet:
    def test_gets_what_was_put(self, store: SqlStore) -> None:
        """A package comes back as the bytes it was, under its ref and under its digest."""
        digest = store.put(NORTH_1, ONE)

        assert ONE == store.get(NORTH_1)
        assert ONE.digest == digest == store.get(NORTH_1).digest
        assert ONE.data == store.payload(digest)
        assert ONE.factor.u_PR.equal(store.factor(digest).u_PR)
        assert ONE.factor.v_RD.equal(store.factor(digest).v_RD)

    def test_same_bytes_again_are_no_change(self, store: SqlStore) -> None:
        """A client that retries an upload gets the same answer, and the entry stays as it was."""
        store.put(NORTH_1, ONE)
        before = store.describe(NORTH_1)

        assert ONE.digest == store.put(NORTH_1, ONE)
        assert before == store.describe(NORTH_1)

    def test_other_bytes_are_a_conflict(self, store: SqlStore) -> None:
        """A version never changes; the message names both digests."""
        store.put(NORTH_1, ONE)

        with pytest.raises(Conflict) as caught:
            store.put(NORTH_1, OTHER)

        assert ONE.digest in str(caught.value)
        assert OTHER.digest in str(caught.value)
        assert ONE == store.get(NORTH_1)

    def test_put_many_is_all_or_nothing(self, store: SqlStore) -> None:
        """One conflict among many packages, and none of them is visible."""
        store.put(NORTH_2, ONE)

        with pytest.raises(Conflict):
            store.put_many({NORTH_1: ONE, NORTH_2: OTHER})

        with pytest.raises(NotFound):
            store.get(NORTH_1)

    def test_put_many_puts_many(self, store: SqlStore) -> None:
        refs = [AdapterRef("north", f"a{i}", 1) for i in range(20)]
        store.put_many({ref: make_package(i) for i, ref in enumerate(refs)})
        assert {ref.name for ref in refs} == {entry.ref.name for entry in store.owned_by("north")}

    @pytest.mark.parametrize("ask", ["get", "describe", "delete"])
    def test_missing_version(self, store: SqlStore, ask: str) -> None:
        store.put(NORTH_1, ONE)
        with pytest.raises(NotFound, match="discharge@9"):
            getattr(store, ask)(MISSING)

    @pytest.mark.parametrize("ask", ["payload", "factor"])
    @pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "", "\0", "\ud800", "x" * 10_000])
    def test_missing_digest(self, store: SqlStore, ask: str, digest: str) -> None:
        with pytest.raises(NotFound):
            getattr(store, ask)(digest)

    @pytest.mark.parametrize("rotten", [OTHER.data, ONE.data[:-1], b""])
    def test_rotten_bytes_are_not_served(self, store: SqlStore, url: str, rotten: bytes) -> None:
        """Bytes that no longer hash to their digest are an error, never a prompt."""
        digest = store.put(NORTH_1, ONE)
        database = Database.open(url)
        with database.writing() as db:
            db.execute(tables.adapters.update().values(payload=rotten))
        database.close()

        with pytest.raises(Unavailable, match=digest):
            store.factor(digest)
        with pytest.raises(Unavailable, match=digest):
            store.get(NORTH_1)


class TestPublish:
    def test_versions_count_up(self, store: SqlStore) -> None:
        assert [NORTH_1, NORTH_2] == [store.publish("north", "discharge", ONE) for _ in range(2)]

    def test_each_name_counts_by_itself(self, store: SqlStore) -> None:
        store.publish("north", "discharge", ONE)
        assert 1 == store.publish("north", "letters", ONE).version
        assert 1 == store.publish("south", "discharge", ONE).version

    def test_writers_at_once_get_different_versions(
        self, open_store: Callable[[], SqlStore]
    ) -> None:
        """Eight writers on two replicas publish one name at once: eight versions, none lost."""
        replicas = [open_store(), open_store()]
        packages = [make_package(i) for i in range(8)]

        refs = both(
            *(
                lambda r=replicas[i % 2], p=package: r.publish("north", "discharge", p)
                for i, package in enumerate(packages)
            )
        )

        assert set(range(1, 9)) == {ref.version for ref in refs}
        assert packages == [replicas[0].get(ref) for ref in refs]

    def test_writers_of_one_version_at_once(self, open_store: Callable[[], SqlStore]) -> None:
        """Of two that put other bytes under one ref, one wins and the other hears so."""
        left, right = open_store(), open_store()
        for version in range(1, 11):
            ref = AdapterRef("north", "discharge", version)
            said = both(lambda r=ref: left.put(r, ONE), lambda r=ref: right.put(r, OTHER))
            winner = next(one for one in said if isinstance(one, str))
            assert 1 == sum(isinstance(one, Conflict) for one in said)
            assert winner == left.get(ref).digest

    def test_bulk_writers_do_not_deadlock(self, open_store: Callable[[], SqlStore]) -> None:
        left, right = open_store(), open_store()
        packages = {AdapterRef("north", f"a{i}", 1): ONE for i in range(50)}
        backwards = dict(reversed(packages.items()))

        assert [None, None] == both(
            lambda: left.put_many(packages), lambda: right.put_many(backwards)
        )


class TestDelete:
    def test_deleted_is_gone(self, store: SqlStore) -> None:
        """Its bytes are nowhere: not by ref, not by digest, not in a listing, not by name."""
        store.put(NORTH_1, ONE)
        store.delete(NORTH_1)

        for ask in (
            lambda: store.get(NORTH_1),
            lambda: store.describe(NORTH_1),
            lambda: store.delete(NORTH_1),
            lambda: store.payload(ONE.digest),
            lambda: store.resolve("north", "discharge"),
            lambda: store.resolve("north", "discharge@1"),
        ):
            with pytest.raises(NotFound):
                ask()
        assert [] == store.owned_by("north")

    def test_number_is_never_given_again(self, store: SqlStore) -> None:
        """Whoever cached discharge@1 can never meet another adapter under that name."""
        store.put(NORTH_1, ONE)
        store.delete(NORTH_1)

        for package in (ONE, OTHER):
            with pytest.raises(Conflict, match="discharge@1 was deleted"):
                store.put(NORTH_1, package)
        assert NORTH_2 == store.publish("north", "discharge", ONE)

    def test_not_while_an_alias_points_to_it(self, store: SqlStore) -> None:
        store.put(NORTH_1, ONE)
        store.move_alias("north", "ner", NORTH_1)
        store.move_alias("north", "default", NORTH_1)

        with pytest.raises(Conflict, match="default, ner"):
            store.delete(NORTH_1)

        assert ONE == store.get(NORTH_1)

    def test_same_bytes_elsewhere_stay(self, store: SqlStore) -> None:
        """Two tenants may hold one digest; one's deletion is not the other's."""
        store.put(NORTH_1, ONE)
        store.publish("south", "copy", ONE)
        store.delete(NORTH_1)
        assert ONE.data == store.payload(ONE.digest)

    def test_never_leaves_an_alias_dangling(self, open_store: Callable[[], SqlStore]) -> None:
        """Delete a version while an alias moves to it: one of the two is refused."""
        left, right = open_store(), open_store()
        for version in range(1, 21):
            ref = left.publish("north", "discharge", ONE)
            alias = f"alias{version}"
            both(
                lambda r=ref: left.delete(r),
                lambda r=ref, a=alias: _quietly(lambda: right.move_alias("north", a, r)),
            )
            pointing = ref in targets(left).values()
            alive = ref in [e.ref for e in left.owned_by("north")]
            assert pointing == alive


def _quietly(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except NotFound:
        return None


class TestListing:
    def test_pages_cover_all_in_order(self, store: SqlStore) -> None:
        """Versions sort as numbers; pages neither repeat nor leave out."""
        store.put_many({AdapterRef("north", n, v): ONE for n in ("b", "a") for v in range(1, 12)})

        seen: list[AdapterRef] = []
        while page := store.owned_by("north", after=seen[-1] if seen else None, limit=5):
            assert len(page) <= 5
            seen += [entry.ref for entry in page]

        assert [AdapterRef("north", n, v) for n in ("a", "b") for v in range(1, 12)] == seen

    def test_says_all_but_the_tensors(self, store: SqlStore) -> None:
        began = datetime.now(UTC)
        store.put(NORTH_1, ONE)
        (entry,) = store.owned_by("north")

        assert entry == store.describe(NORTH_1)
        assert (NORTH_1, ONE.digest, ONE.manifest) == (entry.ref, entry.digest, entry.manifest)
        assert len(ONE.data) == entry.num_bytes
        assert timedelta() <= entry.created - began < timedelta(minutes=1)

    def test_others_are_not_listed(self, store: SqlStore) -> None:
        store.put(NORTH_1, ONE)
        assert [] == store.owned_by("south")


class TestAliases:
    def test_points_and_moves(self, store: SqlStore) -> None:
        store.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.move_alias("north", "ner", NORTH_1)
        assert NORTH_1 == store.alias("north", "ner").ref

        store.move_alias("north", "ner", NORTH_2)
        assert {"ner": NORTH_2} == targets(store)

    def test_expected_place(self, store: SqlStore) -> None:
        """A mover who names the old target loses to one who was faster."""
        store.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.move_alias("north", "ner", NORTH_1)
        store.move_alias("north", "ner", NORTH_2, match=pointing_to(NORTH_1))

        with pytest.raises(Conflict, match="discharge@1"):
            store.move_alias("north", "ner", NORTH_1, match=pointing_to(NORTH_1))
        with pytest.raises(Conflict):
            store.move_alias("north", "qa", NORTH_1, match=pointing_to(NORTH_1))

        assert {"ner": NORTH_2} == targets(store)

    def test_one_of_two_movers_wins(self, open_store: Callable[[], SqlStore]) -> None:
        """Two who expect the same old target: one moves it, the other hears a conflict."""
        left, right = open_store(), open_store()
        at, *targets = (left.publish("north", "discharge", make_package(i)) for i in range(3))
        left.move_alias("north", "ner", at)
        for _ in range(10):
            to_left, to_right = (ref for ref in (at, *targets) if ref != at)
            said = both(
                lambda a=at, r=to_left: left.move_alias("north", "ner", r, match=pointing_to(a)),
                lambda a=at, r=to_right: right.move_alias("north", "ner", r, match=pointing_to(a)),
            )
            targets, now = [to_left, to_right, at], left.alias("north", "ner").ref
            assert 1 == sum(isinstance(one, Conflict) for one in said)
            assert now == (to_right if isinstance(said[0], Conflict) else to_left)
            targets.remove(now)
            at = now

    def test_movers_without_expectation_all_succeed(
        self, open_store: Callable[[], SqlStore]
    ) -> None:
        left, right = open_store(), open_store()
        left.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        moved = both(
            lambda: left.move_alias("north", "ner", NORTH_1),
            lambda: right.move_alias("north", "ner", NORTH_2),
        )
        assert [NORTH_1, NORTH_2] == [one.ref for one in moved]
        assert left.alias("north", "ner").ref in (NORTH_1, NORTH_2)

    def test_drops(self, store: SqlStore) -> None:
        store.put(NORTH_1, ONE)
        store.move_alias("north", "ner", NORTH_1)
        store.drop_alias("north", "ner")

        assert {} == store.aliases("north")
        with pytest.raises(NotFound):
            store.drop_alias("north", "ner")
        with pytest.raises(NotFound):
            store.alias("north", "ner")

    def test_only_to_what_exists(self, store: SqlStore) -> None:
        store.put(NORTH_1, ONE)
        with pytest.raises(NotFound, match="discharge@9"):
            store.move_alias("north", "ner", MISSING)

    def test_only_to_ones_own(self, store: SqlStore) -> None:
        """South cannot point at North's adapter, and hears just what it hears of a missing one."""
        with pytest.raises(NotFound) as of_nobodys:
            store.move_alias("south", "ner", NORTH_1)
        store.put(NORTH_1, ONE)
        with pytest.raises(NotFound) as of_norths:
            store.move_alias("south", "ner", NORTH_1)
        assert str(of_nobodys.value) == str(of_norths.value)

    @pytest.mark.parametrize("alias", ["", "../ner", "Ner", "nеr", "n\0", "\ud800", "n" * 65])
    def test_names_are_names(self, store: SqlStore, alias: str) -> None:
        """What is no name can neither be made nor found, and breaks nothing."""
        store.put(NORTH_1, ONE)
        with pytest.raises(BadInput):
            store.move_alias("north", alias, NORTH_1)
        with pytest.raises(NotFound):
            store.alias("north", alias)
        with pytest.raises(NotFound):
            store.drop_alias("north", alias)


class TestResolve:
    def test_by_version_alias_and_name(self, store: SqlStore) -> None:
        """A bare name is its newest version, as a number: 10 comes after 9."""
        store.put_many({AdapterRef("north", "discharge", v): ONE for v in (1, 9, 10)})
        store.move_alias("north", "ner", NORTH_1)

        for text, version in (("discharge@9", 9), ("ner", 1), ("discharge", 10)):
            found = store.resolve("north", text)
            assert AdapterRef("north", "discharge", version) == found.ref
            assert (ONE.digest, ONE.manifest) == (found.digest, found.manifest)

    def test_newest_that_was_not_deleted(self, store: SqlStore) -> None:
        store.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.delete(NORTH_2)
        assert NORTH_1 == store.resolve("north", "discharge").ref

    def test_alias_before_name(self, store: SqlStore) -> None:
        store.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        store.move_alias("north", "discharge", NORTH_1)
        assert NORTH_1 == store.resolve("north", "discharge").ref

    def test_own_before_shared(self, store: SqlStore) -> None:
        """The zoo serves who has nothing of that name, alias or version; one's own hides it."""
        shared = AdapterRef(SHARED, "zoo-ner", 1)
        store.put(shared, OTHER)
        store.move_alias(SHARED, "ner", shared)
        for text in ("ner", "zoo-ner", "zoo-ner@1"):
            assert shared == store.resolve("north", text).ref

        store.put(NORTH_1, ONE)
        store.move_alias("north", "ner", NORTH_1)
        assert NORTH_1 == store.resolve("north", "ner").ref
        assert shared == store.resolve("south", "ner").ref

    def test_another_tenants_looks_like_nobodys(self, store: SqlStore) -> None:
        """The words about North's adapter are, byte for byte, those from before it existed."""
        texts = ("discharge", "discharge@1", "ner")

        def told() -> list[str]:
            said = []
            for text in texts:
                with pytest.raises(NotFound) as caught:
                    store.resolve("south", text)
                said.append(str(caught.value))
            return said

        before = told()
        store.put(NORTH_1, ONE)
        store.move_alias("north", "ner", NORTH_1)
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
    def test_what_is_no_name_is_not_found(self, store: SqlStore, text: str) -> None:
        with pytest.raises(NotFound):
            store.resolve("north", text)

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

    def test_finds_a_key_by_its_hmac(self, store: SqlStore) -> None:
        key = store.add_key("north", Role.CALLER, self.HMAC)
        assert key == store.find_key(self.HMAC)
        with pytest.raises(NotFound):
            store.find_key("cd" * 32)

    def test_revoked_on_every_replica(self, open_store: Callable[[], SqlStore]) -> None:
        """Revoked by one, unknown to the other at once; it stays listed with its moment."""
        left, right = open_store(), open_store()
        key = left.add_key("north", Role.TENANT_ADMIN, self.HMAC)
        right.revoke_key(key.id)

        with pytest.raises(NotFound):
            left.find_key(self.HMAC)
        (listed,) = left.list_keys()
        assert listed.revoked is not None
        right.revoke_key(key.id)
        assert [listed] == left.list_keys()

    def test_expires(self, store: SqlStore) -> None:
        now = datetime.now(UTC)
        store.add_key("north", Role.CALLER, "00" * 32, expires=now - timedelta(seconds=1))
        lasting = store.add_key("north", Role.CALLER, "11" * 32, expires=now + timedelta(hours=1))

        with pytest.raises(NotFound):
            store.find_key("00" * 32)
        assert lasting == store.find_key("11" * 32)

    def test_lists_by_tenant(self, store: SqlStore) -> None:
        north = store.add_key("north", Role.CALLER, "00" * 32)
        south = store.add_key("south", Role.ADMIN, "11" * 32)
        assert [north, south] == store.list_keys()
        assert [south] == store.list_keys("south")

    def test_lists_in_pages(self, store: SqlStore) -> None:
        """The oldest first, also of one moment; nobody begins after another's."""
        made = [store.add_key("north", Role.CALLER, f"{i:02}" * 32) for i in range(7)]
        south = store.add_key("south", Role.CALLER, "aa" * 32)
        moment = made[3].created
        with store.database.writing() as db:
            db.execute(tables.api_keys.update().values(created=moment))
        ids = sorted(key.id for key in made)

        pages = [store.list_keys("north", after=after, limit=3) for after in (None, ids[2], ids[5])]
        assert ids == [key.id for page in pages for key in page]
        for after in (south.id, "nobody's"):
            with pytest.raises(NotFound):
                store.list_keys("north", after=after)

    def test_a_role_is_held_while_a_key_of_it_opens(self, store: SqlStore) -> None:
        assert not store.has_open_key("north", Role.ADMIN)
        store.add_key("north", Role.CALLER, "00" * 32)
        store.add_key("south", Role.ADMIN, "11" * 32)
        assert not store.has_open_key("north", Role.ADMIN)
        key = store.add_key("north", Role.ADMIN, "22" * 32)
        assert store.has_open_key("north", Role.ADMIN)
        store.revoke_key(key.id)
        assert not store.has_open_key("north", Role.ADMIN)

    def test_a_tenant_revokes_its_own_only(self, store: SqlStore) -> None:
        key = store.add_key("north", Role.CALLER, self.HMAC)
        for other in (
            lambda: store.revoke_key(key.id, tenant="south"),
            lambda: store.revoke_key("x"),
        ):
            with pytest.raises(NotFound, match="no such key"):
                other()
        assert key == store.find_key(self.HMAC)

    def test_an_hmac_stands_once(self, store: SqlStore) -> None:
        store.add_key("north", Role.CALLER, self.HMAC)
        with pytest.raises(Conflict):
            store.add_key("south", Role.CALLER, self.HMAC)


class TestOpening:
    def test_migrations_make_the_tables_of_the_code(self, store: SqlStore, url: str) -> None:
        """Nothing that `tables` declares is missing in a migrated database, and nothing is over."""
        database = Database.open(url)
        with database.reading() as db:
            assert [] == compare_metadata(MigrationContext.configure(db), tables.metadata)
        database.close()

    def test_again_keeps_everything(self, open_store: Callable[[], SqlStore]) -> None:
        open_store().put(NORTH_1, ONE)
        assert ONE == open_store().get(NORTH_1)

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
            SqlStore.open(url)

    def test_does_not_repeat_the_password(self) -> None:
        for url in ("mysql://u:hunter2@h/d", "hunter2"):
            with pytest.raises(BadInput) as caught:
                SqlStore.open(url)
            assert "hunter2" not in str(caught.value)


class TestFaults:
    def test_postgresql_goes_and_comes_back(self, postgres: Postgres) -> None:
        """While it is away every question is `Unavailable`; once it is back, all is there."""
        store = SqlStore.open(postgres.new_database())
        store.put(NORTH_1, ONE)
        postgres.stop()
        try:
            for ask in (
                lambda: store.get(NORTH_1),
                lambda: store.put(NORTH_2, ONE),
                lambda: store.resolve("north", "discharge"),
            ):
                with pytest.raises(Unavailable, match="not answering"):
                    ask()
        finally:
            postgres.start()
        assert ONE == store.get(NORTH_1)
        store.close()

    def test_sqlite_file_goes_and_comes_back(self, tmp_path: Path) -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/data/galenic.db")
        store.put(NORTH_1, ONE)
        store.close()  # its pooled connections; it opens others when asked
        (tmp_path / "data").rename(tmp_path / "away")
        with pytest.raises(Unavailable, match="not answering"):
            store.get(NORTH_1)
        (tmp_path / "away").rename(tmp_path / "data")
        assert ONE == store.get(NORTH_1)
        store.close()

    def test_full_disk_leaves_no_part_of_a_version(self, tmp_path: Path) -> None:
        """SQLite told to grow no further: the upload fails in words, and reading goes on."""
        url = f"sqlite:///{tmp_path}/galenic.db"
        SqlStore.open(url).close()
        sa.event.listen(sa.Engine, "connect", _grow_no_further)
        try:
            store = SqlStore.open(url)
            with pytest.raises(Unavailable, match="no room"):
                _fill(store)
            kept = [entry.ref for entry in store.owned_by("north")]
            assert 0 < len(kept) < 100
            assert len(kept) == len([store.get(ref) for ref in kept])
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
        store = SqlStore.open(url)
        assert [] == store.owned_by("north")
        assert NORTH_1 == store.publish("north", "discharge", ONE)
        store.close()

    def test_an_older_release_does_not_touch_a_newer_database(self, url: str) -> None:
        database = Database.open(url)
        with database.writing() as db:
            db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(Unavailable, match="newer release"):
            SqlStore.open(url)

    def test_an_unreachable_database_does_not_open(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable):
            SqlStore.open(f"postgresql://galenic@/d?host={tmp_path}")


def _die_amid_an_upload(database: Database, postgres: Postgres) -> None:
    with database.writing() as db:
        db.execute(sa.text(HALF_AN_UPLOAD))
        postgres.stop()


def _fill(store: SqlStore) -> None:
    for i in range(100):
        store.publish("north", "discharge", make_package(i, description="x" * 4000))


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
