"""
What the store keeps to as a registry: tenants, canaries, shares, uploads, and changes that all see.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from galenic_adapters.errors import (
    BadInput,
    Conflict,
    Fault,
    NotFound,
    QuotaExceeded,
    Unconditional,
)
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_adapters.tasks.base import TaskName
from galenic_server.database import database
from galenic_server.database.changes import Change, Kind
from galenic_server.registry.aliases import Canary, absent, existing, only, unsaid
from galenic_server.registry.shares import EVERYONE
from galenic_server.registry.store import Store
from galenic_server.registry.uploads import State
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.tenants import Quota
from tests.support.packages import make_package

NORTH_1 = AdapterRef("north", "discharge", 1)
NORTH_2 = AdapterRef("north", "discharge", 2)
ONE, OTHER = make_package(1), make_package(2)
SIZE = len(ONE.data)
NEVER, AT_ONCE = timedelta(days=1), timedelta(seconds=-1)


@pytest.fixture
def two(store: Store) -> Store:
    """With two versions of North's."""
    store.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
    return store


class TestTenants:
    def test_are_there_from_their_first_key_or_adapter(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        store.keys.add("south", Role.CALLER, "00" * 32)

        assert ["north", "south"] == [tenant.name for tenant in store.tenants.page()]
        assert (1, SIZE) == (
            store.tenants.get("north").num_adapters,
            store.tenants.get("north").num_bytes,
        )
        assert ["south"] == [tenant.name for tenant in store.tenants.page(after="north")]
        with pytest.raises(NotFound):
            store.tenants.get("nobody")

    def test_keep_no_more_than_their_quota(self, two: Store) -> None:
        """
        Case 31, of the store: what would be too much is not written, and says by how much.
        """
        for quota, said in ((Quota(max_adapters=2), "3 adapters, at most 2"), (
            Quota(max_bytes=2 * SIZE), f"at most {2 * SIZE:,}",
        )):  # fmt: skip
            two.tenants.put("north", quota=quota)
            with pytest.raises(QuotaExceeded, match=said):
                two.versions.publish("north", "discharge", make_package(3))
            assert 2 == two.tenants.get("north").num_adapters
        two.versions.publish("south", "discharge", ONE)

    def test_have_the_servers_quota_unless_one_of_their_own(self, store: Store) -> None:
        store = Store.over(store.database, default_quota=Quota(max_adapters=1))
        store.versions.publish("north", "discharge", ONE)
        with pytest.raises(QuotaExceeded):
            store.versions.publish("north", "discharge", OTHER)
        store.tenants.put("north", quota=Quota(max_adapters=2))
        store.versions.publish("north", "discharge", OTHER)
        for _ in range(2):
            store.versions.publish(SHARED, "zoo", ONE)

    def test_do_not_slip_past_the_quota_side_by_side(self, open_store: Callable[[], Store]) -> None:
        """Eight uploads at once on two replicas, room for three."""
        replicas = [open_store(), open_store()]
        replicas[0].tenants.put("north", quota=Quota(max_adapters=3))

        def upload(i: int) -> bool:
            try:
                replicas[i % 2].versions.publish("north", "discharge", make_package(i))
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert 3 == sum(pool.map(upload, range(8)))
        assert 3 == len(replicas[0].versions.of_tenant("north"))

    def test_suspended_have_no_key_that_opens(self, store: Store) -> None:
        key = store.keys.add("north", Role.CALLER, "00" * 32)
        store.tenants.put("north", is_suspended=True)
        assert not store.tenants.is_open("north")
        with pytest.raises(NotFound):
            store.keys.find("00" * 32)
        store.tenants.put("north")
        assert key == store.keys.find("00" * 32)
        assert store.tenants.is_open("north")
        assert not store.tenants.is_open("nobody")


class TestKeysThatEnd:
    def test_rotated_the_old_one_opens_for_its_grace(self, store: Store) -> None:
        """The new one has the same tenant, role and label, and is named by the old one."""
        old = store.keys.add("north", Role.TENANT_ADMIN, "00" * 32, label="EHR gateway")
        new = store.keys.rotate(old.id, "11" * 32, grace=timedelta(hours=1))

        assert ("north", Role.TENANT_ADMIN, "EHR gateway") == (new.tenant, new.role, new.label)
        assert new == store.keys.find("11" * 32)
        going = store.keys.find("00" * 32)
        assert new.id == going.replaced_by
        assert going.expires is not None
        assert timedelta(minutes=59) < going.expires - datetime.now(UTC) < timedelta(minutes=61)

    def test_rotated_without_grace_it_opens_nothing(self, store: Store) -> None:
        old = store.keys.add("north", Role.CALLER, "00" * 32)
        store.keys.rotate(old.id, "11" * 32, grace=timedelta())
        with pytest.raises(NotFound):
            store.keys.find("00" * 32)

    def test_rotates_once_and_not_for_others(self, store: Store) -> None:
        """A revoked key is not rotated, and a grace never makes an end later."""
        soon = datetime.now(UTC) + timedelta(minutes=1)
        old = store.keys.add("north", Role.CALLER, "00" * 32, expires=soon)
        with pytest.raises(NotFound):
            store.keys.rotate(old.id, "11" * 32, grace=NEVER, tenant="south")
        new = store.keys.rotate(old.id, "11" * 32, grace=NEVER)
        assert soon == store.keys.find("00" * 32).expires
        with pytest.raises(Conflict, match=new.id):
            store.keys.rotate(old.id, "22" * 32, grace=NEVER)
        store.keys.expire(new.id, datetime.now(UTC))
        with pytest.raises(Conflict, match="has ended"):
            store.keys.rotate(new.id, "22" * 32, grace=NEVER)
        store.keys.revoke(new.id)
        with pytest.raises(NotFound):
            store.keys.rotate(new.id, "22" * 32, grace=NEVER)

    def test_is_given_an_end_which_only_comes_nearer(self, store: Store) -> None:
        key, now = store.keys.add("north", Role.CALLER, "00" * 32), datetime.now(UTC)
        store.keys.expire(key.id, now + timedelta(hours=1), tenant="north")
        with pytest.raises(BadInput):
            store.keys.expire(key.id, now + timedelta(hours=2))
        with pytest.raises(NotFound):
            store.keys.expire(key.id, now, tenant="south")
        store.keys.expire(key.id, now)
        with pytest.raises(NotFound):
            store.keys.find("00" * 32)


class TestDeletion:
    def test_can_be_undone_until_purged(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        store.versions.delete(NORTH_1)
        assert [NORTH_1] == [one.ref for one in store.versions.of_tenant("north", are_deleted=True)]
        assert 0 == store.versions.purge(NEVER)

        assert NORTH_1 == store.versions.undelete(NORTH_1).ref
        assert ONE == store.versions.get(NORTH_1)
        with pytest.raises(NotFound):
            store.versions.undelete(NORTH_1)

    def test_purged_is_gone_and_no_longer_counts(self, two: Store) -> None:
        two.versions.delete(NORTH_1)
        two.versions.delete(NORTH_2, keep=False)
        assert 1 == two.tenants.get("north").num_adapters
        assert 1 == two.versions.purge(AT_ONCE)
        for ref in (NORTH_1, NORTH_2):
            with pytest.raises(NotFound):
                two.versions.undelete(ref)
        assert 0 == two.tenants.get("north").num_adapters
        assert [] == two.versions.of_tenant("north", are_deleted=True)

    def test_that_is_purged_counts_as_what_it_leaves(self, two: Store) -> None:
        """Its number and its manifest stay for good, and nobody fills the database with them."""
        for ref in (NORTH_1, NORTH_2):
            two.versions.delete(ref, keep=False)
        left = two.tenants.get("north").num_bytes
        two.tenants.put("north", quota=Quota(max_bytes=left + left // 2 + SIZE))
        num_made = sum(self.comes_and_goes(two, seed) for seed in range(20))

        assert 0 < left < 2 * (SIZE + 512)
        assert num_made < 4

    def comes_and_goes(self, store: Store, seed: int) -> bool:
        try:
            ref = store.versions.publish("north", "again", make_package(seed))
        except QuotaExceeded:
            return False
        store.versions.delete(ref, keep=False)
        return True

    def test_elsewhere_counts_too(self, store: Store) -> None:
        """An archive of deleted versions is bounded like one of others."""
        tombs = {AdapterRef("north", "gone", i): (ONE.digest, ONE.manifest) for i in range(1, 9)}
        store.versions.bury(tombs)
        of_eight = store.tenants.get("north").num_bytes
        store.versions.bury(tombs)
        assert of_eight == store.tenants.get("north").num_bytes > 8 * 512
        store.tenants.put("north", quota=Quota(max_bytes=of_eight))
        with pytest.raises(QuotaExceeded):
            store.versions.bury({AdapterRef("north", "gone", 9): (ONE.digest, ONE.manifest)})
        assert of_eight == store.tenants.get("north").num_bytes

    def test_only_of_what_the_deleter_saw(self, store: Store) -> None:
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(Conflict, match=ONE.digest):
            store.versions.delete(NORTH_1, digest=OTHER.digest)
        store.versions.delete(NORTH_1, digest=ONE.digest)

    def test_not_of_a_canary(self, two: Store) -> None:
        two.aliases.move("north", "ner", NORTH_1, canary=Canary(NORTH_2, 5))
        with pytest.raises(Conflict, match="alias ner"):
            two.versions.delete(NORTH_2)


class TestCanaries:
    def test_get_their_share_of_requests_always_the_same_ones(self, two: Store) -> None:
        """The request's id decides, so a retry meets the same version on any replica."""
        two.aliases.move("north", "ner", NORTH_1, canary=Canary(NORTH_2, 20))
        found = two.names.resolve("north", "ner")
        drawn = [found.for_request(f"request-{i}").ref for i in range(2000)]

        assert 320 < drawn.count(NORTH_2) < 480
        assert drawn == [found.for_request(f"request-{i}").ref for i in range(2000)]
        assert NORTH_1 == two.names.resolve("north", "discharge@1").for_request("x").ref

    def test_take_over_and_go_back(self, two: Store) -> None:
        """One call each; the second way back is none."""
        two.aliases.move("north", "ner", NORTH_1, canary=Canary(NORTH_2, 20))
        promoted = two.aliases.promote("north", "ner")
        assert (NORTH_2, None, NORTH_1) == (promoted.ref, promoted.canary, promoted.previous)
        assert NORTH_2 == two.names.resolve("north", "ner").for_request("x").ref
        with pytest.raises(Conflict, match="no canary"):
            two.aliases.promote("north", "ner")

        assert NORTH_1 == two.aliases.roll_back("north", "ner").ref
        with pytest.raises(Conflict, match="nothing to go back to"):
            two.aliases.roll_back("north", "ner")

    def test_are_called_off(self, two: Store) -> None:
        two.aliases.move("north", "ner", NORTH_1, canary=Canary(NORTH_2, 99))
        back = two.aliases.roll_back("north", "ner")
        assert (NORTH_1, None) == (back.ref, back.canary)
        assert back == two.aliases.get("north", "ner")

    def test_answer_the_same_task(self, two: Store) -> None:
        other = two.versions.publish(
            "north", "sums", make_package(task=TaskName.SUMMARIZATION, labels=())
        )
        with pytest.raises(BadInput, match="sums@1 is for summarization"):
            two.aliases.move("north", "ner", NORTH_1, canary=Canary(other, 5))
        for weight in (0, 100, -1):
            with pytest.raises(BadInput):
                Canary(NORTH_2, weight)

    def test_rollback_to_what_is_deleted_is_refused(self, two: Store) -> None:
        two.aliases.move("north", "ner", NORTH_1)
        two.aliases.move("north", "ner", NORTH_2)
        two.versions.delete(NORTH_1)
        with pytest.raises(NotFound):
            two.aliases.roll_back("north", "ner")
        assert NORTH_2 == two.aliases.get("north", "ner").ref


class TestConditions:
    def test_move_only_what_they_mean(self, two: Store) -> None:
        two.aliases.move("north", "ner", NORTH_1, match=absent)
        first = two.aliases.get("north", "ner")
        for match, error in (
            (absent, Conflict),
            (unsaid, Unconditional),
            (only(first.change + 1), Conflict),
        ):
            with pytest.raises(error):
                two.aliases.move("north", "ner", NORTH_2, match=match)
        moved = two.aliases.move("north", "ner", NORTH_2, match=only(first.change))
        assert moved.change > first.change
        assert NORTH_2 == two.aliases.move("north", "ner", NORTH_2, match=existing).ref

    def test_hold_for_what_is_not_there(self, two: Store) -> None:
        for match in (existing, only(7)):
            with pytest.raises(Conflict):
                two.aliases.move("north", "ner", NORTH_1, match=match)
        two.aliases.move("north", "ner", NORTH_1, match=unsaid)

    def test_one_of_two_writers_with_one_etag_wins(self, open_store: Callable[[], Store]) -> None:
        """
        Case 32, of the store: on two replicas, ten times; promote, rollback and drop too.
        """
        left, right = open_store(), open_store()
        left.versions.put_many({NORTH_1: ONE, NORTH_2: OTHER})
        left.aliases.move("north", "ner", NORTH_1)
        for _ in range(10):
            seen = only(left.aliases.get("north", "ner").change)

            def move(store: Store, ref: AdapterRef, match=seen) -> bool:
                try:
                    store.aliases.move("north", "ner", ref, match=match)
                except Conflict:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                won = list(pool.map(move, (left, right), (NORTH_1, NORTH_2)))
            assert [False, True] == sorted(won)
        stale = only(left.aliases.get("north", "ner").change - 1)
        for act in (left.aliases.promote, left.aliases.roll_back, left.aliases.drop):
            with pytest.raises(Conflict):
                act("north", "ner", match=stale)


class TestShares:
    def test_open_one_name_to_whom_they_name(self, two: Store) -> None:
        """They name it with its owner before it; for all others it does not exist."""
        for text in ("north/discharge", "north/discharge@1", "north/nothing"):
            with pytest.raises(NotFound):
                two.names.resolve("south", text)
        two.shares.put("north", "discharge", ["south"])

        assert NORTH_2 == two.names.resolve("south", "north/discharge").ref
        assert NORTH_1 == two.names.resolve("south", "north/discharge@1").ref
        assert [("north", "discharge")] == two.shares.lent_to("south")
        for tenant, text in (("west", "north/discharge"), ("south", "discharge"), (
            "south", "north/other",
        )):  # fmt: skip
            with pytest.raises(NotFound):
                two.names.resolve(tenant, text)
        assert NORTH_1 == two.names.resolve("north", "north/discharge@1").ref

    def test_of_a_suspended_tenant_are_closed(self, two: Store) -> None:
        """To borrowers as to itself, until it is open again."""
        two.shares.put("north", "discharge", ["south"])
        two.tenants.put("north", is_suspended=True)
        with pytest.raises(NotFound):
            two.names.resolve("south", "north/discharge")
        assert [] == two.shares.lent_to("south")
        two.tenants.put("north")
        assert NORTH_2 == two.names.resolve("south", "north/discharge").ref

    def test_to_everyone_and_back(self, two: Store) -> None:
        two.shares.put("north", "discharge", [EVERYONE])
        assert NORTH_2 == two.names.resolve("west", "north/discharge").ref
        assert [("north", "discharge")] == two.shares.lent_to("west")
        assert [] == two.shares.lent_to("north")
        two.shares.put("north", "discharge", [])
        with pytest.raises(NotFound):
            two.names.resolve("west", "north/discharge")
        assert [] == two.shares.of("north")

    def test_an_alias_lends_what_it_points_to(self, two: Store) -> None:
        two.aliases.move("north", "live", NORTH_1)
        two.shares.put("north", "live", ["south"])
        assert NORTH_1 == two.names.resolve("south", "north/live").ref
        with pytest.raises(NotFound):
            two.names.resolve("south", "north/discharge")

    def test_never_fall_back_on_the_zoo(self, store: Store) -> None:
        """north/x is North's or nothing, though there is a shared x."""
        store.versions.publish(SHARED, "zoo", ONE)
        store.shares.put("north", "zoo", [EVERYONE])
        with pytest.raises(NotFound):
            store.names.resolve("south", "north/zoo")
        assert SHARED == store.names.resolve("south", f"{SHARED}/zoo").ref.tenant

    @pytest.mark.parametrize("text", ["/", "north/", "/a", "north/a/b", "Ä/a", "../a", "north/@1"])
    def test_what_is_no_name_is_not_found(self, store: Store, text: str) -> None:
        with pytest.raises(NotFound):
            store.names.resolve("north", text)


class TestUploads:
    def receive(self, store: Store, id_: str = "k", digest: str = ONE.digest) -> State:
        return store.uploads.receive("north", id_, "discharge", None, digest).state

    def test_of_one_key_make_one_version(self, open_store: Callable[[], Store]) -> None:
        """
        Case 33, of the store: eight times at once, over two replicas.
        """
        replicas = [open_store(), open_store()]

        def upload(i: int) -> AdapterRef:
            store = replicas[i % 2]
            self.receive(store)
            return store.versions.publish("north", "discharge", ONE, upload="k")

        with ThreadPoolExecutor(8) as pool:
            assert {NORTH_1} == set(pool.map(upload, range(8)))
        assert 1 == len(replicas[0].versions.of_tenant("north"))
        assert (State.CHECKED, NORTH_1) == (
            (known := replicas[0].uploads.get("north", "k")).state,
            known.ref,
        )

    def test_of_one_key_are_one_upload(self, store: Store) -> None:
        """Another body, name or version under it is refused; another tenant's key is its own."""
        assert State.RECEIVED == self.receive(store)
        for name, version, digest in (
            ("discharge", None, OTHER.digest),
            ("letters", None, ONE.digest),
            ("discharge", 1, ONE.digest),
        ):
            with pytest.raises(BadInput, match="idempotency-key"):
                store.uploads.receive("north", "k", name, version, digest)
        assert State.RECEIVED == store.uploads.receive("south", "k", "x", 3, OTHER.digest).state
        for wrong in ("", "k" * 129, "é", "a\nb"):
            with pytest.raises(BadInput):
                self.receive(store, wrong)

    def test_tell_why_they_failed_until_they_are_forgotten(self, store: Store) -> None:
        self.receive(store)
        faults = (Fault("manifest.name", "is not a name"),)
        store.uploads.fail("north", "k", faults)

        assert (State.FAILED, faults) == (
            (was := store.uploads.get("north", "k")).state,
            was.faults,
        )
        assert ["k"] == [one.id for one in store.uploads.newest("north")]
        store.uploads.forget(NEVER)
        assert 1 == len(store.uploads.newest("north"))
        store.uploads.forget(AT_ONCE)
        with pytest.raises(NotFound):
            store.uploads.get("north", "k")

    def test_carry_their_signature(self, store: Store) -> None:
        store.versions.publish("north", "discharge", ONE, signed=Signed("pharmacy", "{}"))
        assert "pharmacy" == store.versions.describe(NORTH_1).signed_by


class TestChanges:
    def test_are_numbered_and_seen_in_order(self, open_store: Callable[[], Store]) -> None:
        """Twenty writers on two replicas: a follower sees every number once, in order, no gap."""
        left, right = open_store(), open_store()
        seen, found = left.changes.newest(), []
        with ThreadPoolExecutor(4) as pool:
            writes = [
                pool.submit(
                    (left, right)[i % 2].versions.publish, "north", f"a{i % 3}", make_package(i)
                )
                for i in range(20)
            ]
            while not all(one.done() for one in writes) or left.changes.newest() > seen:
                seen, new = left.changes.catch_up(seen)
                found += new
        assert list(range(1, 21)) == [change.number for change in found]
        assert {Kind.ADAPTER} == {change.kind for change in found}

    def test_reach_listeners_here_at_once_and_elsewhere_when_they_look(
        self, open_store: Callable[[], Store]
    ) -> None:
        here, there = open_store(), open_store()
        told: dict[str, list[Change]] = {"here": [], "there": []}
        here.changes.listen(lambda found: told["here"].extend(found or ()))
        there.changes.listen(lambda found: told["there"].extend(found or ()))
        seen = there.changes.newest()
        here.versions.put(NORTH_1, ONE)
        here.aliases.move("north", "ner", NORTH_1)

        assert [Kind.ADAPTER, Kind.ALIAS] == [change.kind for change in told["here"]]
        assert not told["there"] and not there.changes.is_current
        there.changes.catch_up(seen)
        assert told["here"] == told["there"]
        assert there.changes.is_current

    def test_that_did_not_happen_have_no_number(self, store: Store) -> None:
        """Neither what was refused nor what changed nothing."""
        store.versions.put(NORTH_1, ONE)
        before = store.changes.newest()
        with pytest.raises(Conflict):
            store.versions.put(NORTH_1, OTHER)
        store.versions.put(NORTH_1, ONE)
        with pytest.raises(NotFound):
            store.versions.delete(NORTH_2)
        assert 0 == store.versions.purge(AT_ONCE)
        assert before == store.changes.newest()

    def test_lost_to_a_follower_are_everything(self, store: Store, url: str) -> None:
        """Who comes too late to see each of them forgets all that it knew."""
        told: list[object] = []
        store.changes.listen(told.append)
        store.versions.put_many({NORTH_1: ONE})
        store.aliases.move("north", "ner", NORTH_1)
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as db:
            db.execute(sa.text("DELETE FROM changes WHERE number = 1"))
        engine.dispose()
        told.clear()

        assert (2, []) == store.changes.catch_up(0)
        assert [None] == told


class TestReplicas:
    def test_say_what_they_have_seen(self, store: Store) -> None:
        """A change is converged once nobody is behind; a replica that left is not waited for."""
        assert float("inf") == store.replicas.seen_by_all()
        one, other = store.replicas.enter("host:1", 0), store.replicas.enter("host:2", 0)
        store.versions.put(NORTH_1, ONE)
        number = store.changes.newest()
        assert sorted([one, other]) == store.replicas.behind(number)
        assert store.replicas.report(one, number)
        assert [other] == store.replicas.behind(number)
        assert 0 == store.replicas.seen_by_all()
        store.replicas.leave(other)
        assert [] == store.replicas.behind(number)
        assert not store.replicas.report(other, number)
        with pytest.raises(NotFound):
            store.replicas.leave(other)

    def test_take_the_place_of_the_one_before(self, store: Store) -> None:
        """A restart on the same address is no second replica that nobody hears of again."""
        store.replicas.enter("host:1", 0)
        after = store.replicas.enter("host:1", 5)
        assert [(after, 5)] == [(one.id, one.seen) for one in store.replicas.all()]

    def test_silent_ones_are_given_up(self, store: Store) -> None:
        store.replicas.enter("host:1", 0)
        store.replicas.leave_silent(60)
        assert 1 == len(store.replicas.all())
        store.replicas.leave_silent(-1)
        assert [] == store.replicas.all()


class TestAnOlderDatabase:
    def test_has_its_tenants_counted_when_it_is_opened(self, url: str) -> None:
        """Everyone with an adapter or a key becomes a tenant, charged for stored bytes."""
        old = database._engine(database._parsed(url))
        with old.begin() as db:
            config = Config(attributes={"connection": db})
            config.set_main_option("script_location", str(database.MIGRATIONS))
            command.upgrade(config, "0001")
            for name, payload in (("a", b"xyz"), ("b", None)):
                row = {"name": name, "payload": payload, "digest": ONE.digest}
                manifest = {"manifest": ONE.manifest.model_dump_json()}
                db.execute(sa.text(OLD_ADAPTER), row | manifest)
            db.execute(sa.text(OLD_KEY.format("00" * 32)))
        old.dispose()
        store = Store.open(url)

        assert [("north", 1, 3), ("south", 0, 0)] == [
            (one.name, one.num_adapters, one.num_bytes) for one in store.tenants.page()
        ]
        assert "south" == store.keys.find("00" * 32).tenant
        assert NORTH_1 == store.versions.publish("north", "discharge", ONE)
        store.close()


OLD_ADAPTER = """
    INSERT INTO adapters (tenant, name, version, digest, manifest, num_bytes, created, payload)
    VALUES ('north', :name, 1, :digest, :manifest, 3, '2026-01-31', :payload)
"""
OLD_KEY = """
    INSERT INTO api_keys (id, tenant, role, hmac_sha256, created)
    VALUES ('k', 'south', 'caller', '{}', '2026-01-31')
"""
