"""Refusals leave few rows, however many there are."""

import pytest

from galenic_server.audit.chain import Record
from galenic_server.audit.refusals import MOST_KINDS, Refusals
from galenic_server.tenancy.keys import Role
from tests.support.audited import rows, waited
from tests.support.serving import Running

REFUSED = {"tenant": "north", "actor": "k1", "action": "list_keys", "outcome": "Forbidden"}


class Minutes:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def written() -> list[Record]:
    return []


@pytest.fixture
def clock() -> Minutes:
    return Minutes()


@pytest.fixture
def refusals(written: list[Record], clock: Minutes) -> Refusals:
    return Refusals(written.append, clock=clock)


class TestRefusals:
    def test_alike_are_two_rows_a_minute(
        self, refusals: Refusals, written: list[Record], clock: Minutes
    ):
        """
        The first at once, the others' number and the last one's id when the minute is over.
        """
        for i in range(1000):
            refusals.add(REFUSED | {"request_id": f"r{i}"})
        refusals.settle()
        at_once = list(written)
        clock.seconds = 60
        refusals.settle()
        refusals.add(REFUSED)

        assert [REFUSED | {"request_id": "r0"}] == at_once
        assert [REFUSED | {"request_id": "r999", "count": 999}, REFUSED] == written[1:]

    @pytest.mark.parametrize("field", ["tenant", "actor", "action", "outcome", "source"])
    def test_of_another_kind_are_told_apart(
        self, refusals: Refusals, written: list[Record], field: str
    ):
        """
        By who was refused what, how, and where it came from.
        """
        refusals.add(REFUSED)
        refusals.add(REFUSED | {field: "other"})

        assert 2 == len(written)

    def test_of_very_many_kinds_are_told_by_outcome(
        self, refusals: Refusals, written: list[Record]
    ):
        """
        A thousand addresses that try keys leave no thousand rows.
        """
        for i in range(MOST_KINDS + 500):
            refusals.add(REFUSED | {"source": f"2001:db8::{i:x}"})
        refusals.settle(all_of_them=True)

        assert MOST_KINDS + 2 == len(written)
        assert {"action": "refuse_others", "outcome": "Forbidden", "count": 499} == written[-1]


class TestALogIn:
    def test_that_fails_is_told_with_its_address(self, running: Running):
        """
        Whichever route it was tried at; never the key that was sent.
        """
        before = len(rows(running, action="log_in"))  # others' tests fail to log in too
        for path in ("/v1/models", "/admin/v1/adapters") * 20:
            sent = {"authorization": "Bearer gal_wrong"}
            assert 401 == running.anyone.get(path, headers=sent).status_code
        told = waited(running, 1, action="log_in")

        assert len(told) < before + 5
        assert ("Unauthorized", "127.0.0.1") == (told[0]["outcome"], told[0]["source"])
        assert "gal_wrong" not in str(told)


class TestAFloodOfRefusals:
    def test_fills_no_table(self, running: Running):
        """
        A caller who knocks at an admin's door a hundred times leaves one row at once.
        """
        north = running.client("refused-often")
        statuses = {north.get("/admin/v1/keys").status_code for _ in range(100)}
        told = waited(running, 1, tenant="refused-often")

        assert {403} == statuses
        assert 1 == len(told)
        assert "127.0.0.1" == told[0]["source"]


class TestLimits:
    def test_hold_on_admin_routes_too(self, running: Running):
        """
        A tenant's own are spent there as elsewhere; those of the whole server's admin are not.
        """
        limits = "/admin/v1/tenants/knocking/limits"
        running.admin.put(limits, json={"requests_per_minute": 3}).raise_for_status()
        caller, chief = running.client("knocking"), running.client("knocking", Role.TENANT_ADMIN)
        statuses = [
            one.get("/admin/v1/adapters").status_code for one in (caller, chief, chief, chief)
        ]

        assert [403, 200, 200, 429] == statuses
        assert all(running.admin.get(limits).is_success for _ in range(5))
