"""The audit chain, over SQLite and over PostgreSQL alike."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from galenic_adapters.errors import BadInput, Conflict, Unavailable
from galenic_adapters.refs import AdapterRef
from galenic_server.audit.archive import archive, verify_archive
from galenic_server.audit.chain import Chain, Head, Tampered, acting
from galenic_server.audit.witness import Witness
from galenic_server.database.database import Database
from galenic_server.registry.store import Store
from galenic_server.tenancy.keys import Role
from tests.support.packages import make_package

SECRET = b"the server's"
SWAP = """
    UPDATE audit SET number = CASE number WHEN 2 THEN -3 ELSE -2 END WHERE number IN (2, 3);
    UPDATE audit SET number = -number WHERE number < 0
"""
BACK = "UPDATE audit_head SET number = :number, mac = :mac, seal = :seal WHERE id = 1"
FEIGN = """
    INSERT INTO audit_head (id, number, mac, seal)
    SELECT 2, number, mac, mac FROM audit WHERE number = 3;
    DELETE FROM audit WHERE number < 4
"""
EMPTY = "UPDATE audit_head SET number = 0, mac = '', seal = ''"
ALL_GONE = "DELETE FROM audit; UPDATE audit_head SET number = 0, mac = '', seal = ''"
CUT_SHORT = """
    DELETE FROM audit WHERE number > 2;
    UPDATE audit_head SET number = 0, mac = '', seal = ''
"""
NORTH_1 = AdapterRef("north", "discharge", 1)
ONE, OTHER = make_package(1), make_package(2)


@pytest.fixture
def open_database(url: str) -> Iterator[Callable[[], Database]]:
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database.open(url))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def database(open_database: Callable[[], Database]) -> Database:
    return open_database()


@pytest.fixture
def chain(database: Database) -> Chain:
    """With five rows."""
    made = Chain(database, SECRET)
    made.append([{"action": "ask", "request_id": f"r{i}"} for i in range(5)])
    return made


def erase(database: Database, statements: str, **values: Any) -> None:
    with database.writing() as db:
        for statement in statements.split(";"):
            db.execute(sa.text(statement), values)


def put_back(database: Database, head: Any) -> None:
    """What an old backup would do: that head, and no row after it."""
    erase(database, "DELETE FROM audit WHERE number > :number", number=head.number)
    erase(database, BACK, **head._asdict())


def acts(chain: Chain) -> list[dict[str, Any]]:
    return [record for record, _ in chain.rows()]


class TestAChain:
    def test_holds_what_was_appended_in_order(self, chain: Chain):
        """
        Numbered from one, each naming the MAC before it, with its moment.
        """
        rows = list(chain.rows())

        assert [1, 2, 3, 4, 5] == [record["number"] for record, _ in rows]
        assert ["", *(mac for _, mac in rows[:-1])] == [record["previous"] for record, _ in rows]
        assert [f"r{i}" for i in range(5)] == [record["request_id"] for record, _ in rows]
        assert all(record["at"].endswith("+00:00") for record, _ in rows)
        assert chain.verify() == chain.head() == Head(5, rows[-1][1])
        assert [4, 5] == [record["number"] for record, _ in chain.rows(after=3)]

    def test_is_one_for_all_replicas(self, open_database: Callable[[], Database]):
        """
        Four that append at once: no row lost, none twice, one order.
        """
        chains = [Chain(open_database(), SECRET) for _ in range(4)]

        def append(chain: Chain) -> None:
            for i in range(20):
                chain.append([{"i": i}] * 3)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(append, chains))

        assert 240 == chains[0].verify().number

    def test_is_read_in_pages(self, chain: Chain):
        """
        However long it is.
        """
        chain.append([{"i": i} for i in range(2500)])

        assert 2505 == chain.verify().number
        assert 2505 == len(list(chain.rows()))


class TestTampering:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("UPDATE audit SET record = replace(record, 'r2', 'r7') WHERE number = 3", "row 3 was"),
            ("DELETE FROM audit WHERE number = 3", "row 3 is not there"),
            ("DELETE FROM audit WHERE number = 1", "row 1 is not there"),
            ("DELETE FROM audit WHERE number = 5", "ends at row 4, its head says 5"),
            ("DELETE FROM audit", "ends at row 0, its head says 5"),
            ("DELETE FROM audit_head", "head of the chain is not there"),
            ("UPDATE audit_head SET number = 4", "head at row 4 has a seal"),
            (EMPTY, "head says that there are no rows, and there are some"),
            (CUT_SHORT, "head says that there are no rows"),
            (ALL_GONE, "seen at row 5, and ends at 0 now"),
            ("UPDATE audit_head SET mac = 'x'", "head at row 5 has a seal"),
            ("UPDATE audit SET number = number + 1 WHERE number = 5", "row 5 is not there"),
            (
                SWAP,
                "row 2 does not follow row 1",
            ),
            (
                "INSERT INTO audit SELECT 0, record, mac FROM audit WHERE number = 1",
                "row 1 is not there",
            ),
        ],
    )
    def test_is_found(self, database: Database, chain: Chain, change: str, said: str):
        """
        Changed, removed, reordered, inserted, cut off: the message says where.
        """
        chain.append([])
        chain.verify()
        erase(database, change)

        with pytest.raises(Tampered, match=said):
            chain.verify()

    def test_a_shorter_chain_cannot_be_sealed(self, database: Database, chain: Chain):
        """
        Neither the last row's own MAC nor a server with another secret seals it.
        """
        with database.writing() as db:
            db.execute(sa.text("DELETE FROM audit WHERE number = 5"))
            mac = db.scalar(sa.text("SELECT mac FROM audit WHERE number = 4"))
            db.execute(
                sa.text("UPDATE audit_head SET number = 4, mac = :mac, seal = :mac"), {"mac": mac}
            )

        with pytest.raises(Tampered, match="head at row 4 has a seal"):
            chain.verify()
        with pytest.raises(Tampered, match="seal"):
            Chain(database, b"another's").append([{}])

    def test_a_chain_without_rows_is_none(self, database: Database, chain: Chain):
        """
        Where nobody remembers the rows, their absence is told: a server writes one when it starts.
        """
        erase(database, ALL_GONE)

        with pytest.raises(Tampered, match="no row"):
            Chain(database, SECRET).verify()

    def test_a_shorter_chain_is_not_continued(self, database: Database, chain: Chain):
        """
        Not by who wrote it, and not by who remembers its head: an attacker who puts back a true
        head of old with its rows finds that nothing is audited, so nothing is changed.
        """
        with database.reading() as db:
            old = db.execute(sa.text("SELECT number, mac, seal FROM audit_head")).one()
        noted = chain.append([{"action": "delete"}])
        chain.begin()
        put_back(database, old)

        for one in (chain, Chain(database, SECRET, seen=noted)):
            with pytest.raises(Tampered, match="seen at row 6, and ends at 5 now"):
                one.append([{}])
            with pytest.raises(Tampered, match="seen at row 6"):
                one.begin()

    def test_a_row_beyond_the_head_is_found(self, database: Database, chain: Chain):
        """
        An old head alone, before rows that the server made.
        """
        with database.reading() as db:
            old = db.execute(sa.text("SELECT number, mac, seal FROM audit_head")).one()
        chain.append([{"action": "delete"}])
        erase(database, BACK, **old._asdict())

        with pytest.raises(Tampered, match="goes on to row 6, beyond its head"):
            Chain(database, SECRET).verify()

    def test_an_old_backup_lacks_the_head_that_was_noted(self, database: Database, chain: Chain):
        """
        Rows and head put back together are found by a head noted elsewhere, and by nothing else.
        """
        with database.reading() as db:
            old = db.execute(sa.text("SELECT number, mac, seal FROM audit_head")).one()
        noted = chain.append([{"action": "delete"}])
        put_back(database, old)
        chain = Chain(database, SECRET)  # which remembers nothing

        assert 5 == chain.verify().number
        with pytest.raises(Tampered, match="has 5 rows, 6 were noted"):
            chain.verify(Head.parse(str(noted)))
        chain.append([{"action": "ask"}])
        with pytest.raises(Tampered, match="row 6 is not the one that was noted"):
            chain.verify(noted)

    def test_a_record_signed_by_another_secret_is_none(self, database: Database, chain: Chain):
        """
        Who can write the database and not the MAC forges no row.
        """
        forged = {"number": 3, "previous": "", "action": "nothing"}
        with database.writing() as db:
            db.execute(
                sa.text("UPDATE audit SET record = :record WHERE number = 3"),
                {"record": json.dumps(forged)},
            )

        with pytest.raises(Tampered, match="row 3 was changed"):
            chain.verify()


class TestAnArchive:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "audit.jsonl"

    def test_holds_the_rows_that_the_chain_goes_on_from(self, chain: Chain, file: Path):
        """
        It is whole by itself, the rest is whole without it, and the rest says what it was.
        """
        chain.begin()
        last = archive(chain, datetime.now(UTC), file)
        chain.append([{"action": "ask"}])
        before, until = verify_archive(chain, file.read_bytes().splitlines(keepends=True))
        told = acts(chain)

        assert last is not None
        assert (Head(0, ""), last, 5) == (before, until, last.number)
        assert 7 == chain.verify().number
        assert ["archive_audit", "ask"] == [one["action"] for one in told]
        assert str(last) == told[0]["through"]

    def test_is_followed_by_the_next(self, chain: Chain, file: Path, tmp_path: Path):
        """
        One's end is the other's beginning; where nothing is old enough, there is none.
        """
        assert archive(chain, datetime(2020, 1, 1, tzinfo=UTC), file) is None
        first = archive(chain, datetime.now(UTC), file)
        second = archive(chain, datetime.now(UTC), tmp_path / "second.jsonl")
        lines = (tmp_path / "second.jsonl").read_bytes().splitlines(keepends=True)

        assert (first, second) == verify_archive(chain, lines)
        with pytest.raises(BadInput, match="there already"):
            archive(chain, datetime.now(UTC), file)

    @pytest.mark.parametrize("cut", [slice(1, None), slice(None, -2), slice(None, -1)])
    def test_that_lacks_a_line_is_none(self, chain: Chain, file: Path, cut: slice):
        """
        Neither its first, nor its last, nor its seal.
        """
        archive(chain, datetime.now(UTC), file)
        *rows, end = file.read_bytes().splitlines(keepends=True)
        lines = [*rows[cut], end] if cut != slice(None, -1) else rows

        with pytest.raises(Tampered):
            verify_archive(chain, lines)

    def test_cannot_be_feigned(self, database: Database, chain: Chain):
        """
        Who deletes old rows and writes a base of his own is found.
        """
        erase(database, FEIGN)

        with pytest.raises(Tampered, match="head at row 3 has a seal"):
            chain.verify()


class TestAnotherSecret:
    def test_goes_on_with_the_chain_of_the_old_one(self, database: Database, chain: Chain):
        """
        The first of a server's secrets seals, all of them verify; without the old one it is none.
        """
        Chain(database, b"the new one", SECRET).append([{"action": "ask"}])

        assert 6 == Chain(database, b"the new one", SECRET).verify().number
        for secret in (SECRET, b"the new one"):
            with pytest.raises(Tampered):
                Chain(database, secret).verify()


class TestAWitness:
    def test_remembers_the_head_of_its_database(self, chain: Chain, tmp_path: Path):
        """
        By the address of the database, without its password.
        """
        witness = Witness.of(tmp_path, "postgresql://galenic:one@host/db")
        before = witness.read()
        witness.write(chain.head())

        assert Head(0, "") == before
        assert chain.head() == Witness.of(tmp_path, "postgresql://galenic:two@host/db").read()
        assert Head(0, "") == Witness.of(tmp_path, "postgresql://galenic:one@host/other").read()


class TestAnAct:
    def test_is_written_with_what_it_did(self, database: Database):
        """
        Actor, old, new and digest, in the very transaction: a refused one wrote neither.
        """
        store, chain = Store.over(database), Chain(database, SECRET)
        with acting({"actor": "k1", "action": "publish"}):
            store.versions.put(NORTH_1, ONE)
        store.versions.publish("north", "discharge", OTHER)  # nobody's act
        for ref in (NORTH_1, AdapterRef("north", "discharge", 2)):
            with acting({"actor": "k1", "action": "move_alias"}):
                store.aliases.move("north", "ner", ref)
        with acting({"actor": "k2", "action": "publish"}) as refused, pytest.raises(Conflict):
            store.versions.put(NORTH_1, OTHER)
        with acting({"actor": "k2", "action": "create_key"}):
            key = store.keys.add("north", Role.CALLER, "0" * 64)

        told = acts(chain)
        assert ["publish", "move_alias", "move_alias", "create_key"] == [
            one["action"] for one in told
        ]
        assert ("discharge@1", ONE.digest) == (told[0]["adapter"], told[0]["digest"])
        assert [(None, "discharge@1"), ("discharge@1", "discharge@2")] == [
            (one["old"], one["new"]) for one in told[1:3]
        ]
        assert OTHER.digest == told[2]["digest"]
        assert (key.id, "k2") == (told[3]["key"], told[3]["actor"])
        assert 0 == refused.num_written
        assert 4 == chain.verify().number

    def test_that_cannot_be_audited_does_not_happen(self, database: Database):
        """
        Nothing is changed any more once the chain is broken.
        """
        store = Store.over(database)
        Chain(database, SECRET)
        with database.writing() as db:
            db.execute(sa.text("DELETE FROM audit_head"))

        with acting({"action": "publish"}), pytest.raises(Tampered):
            store.versions.put(NORTH_1, ONE)
        assert [] == store.versions.of_tenant("north")


class TestADatabaseThatIsAway:
    def test_takes_no_row_and_says_so(self, tmp_path: Path):
        """
        A database that is full raises as one that is away does, and the chain stays whole.
        """
        database = Database.open(f"sqlite:///{tmp_path}/galenic.db")
        chain = Chain(database, SECRET)
        chain.append([{"action": "ask"}])
        sa.event.listen(database._engine, "connect", _fill)
        database._engine.dispose()

        with pytest.raises(Unavailable, match="no room left"):
            chain.append([{"action": "ask", "filler": "x" * 100_000}])
        assert 1 == chain.verify().number
        database.close()


def _fill(connection: Any, _record: Any) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
