"""What keys of each role open, and nothing else."""

from typing import Any

import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import SHARED
from galenic_server.tenancy.keys import Role
from tests.support.audited import waited
from tests.support.held import set_to
from tests.support.serving import Running, package

NOTE = {"documents": [{"id": "1", "text": "He has gout."}]}


class TestMetrics:
    def test_open_to_a_key_that_opens_nothing_else(self, running: Running):
        """
        Prometheus needs no admin's key.
        """
        client = running.client(SHARED, Role.METRICS)
        with set_to(running, metrics_public=False):
            opened = [client.get("/metrics"), running.client("north").get("/metrics")]
        refused = [
            client.post("/v1/ner", json=NOTE),
            client.get("/v1/models"),
            client.get("/admin/v1/keys"),
            client.get("/admin/v1/audit"),
        ]

        assert [200, 403] == [reply.status_code for reply in opened]
        assert {403} == {reply.status_code for reply in refused}

    def test_are_no_tenants(self, running: Running):
        """
        They name all tenants and their volumes.
        """
        with pytest.raises(BadInput, match="all tenants'"):
            running.key("north", Role.METRICS)


class TestAudit:
    def rows(self, running: Running, owner: str, role: Role, **query: Any) -> list[dict[str, Any]]:
        reply = running.client(owner, role).get("/admin/v1/audit", params=query)
        assert 200 == reply.status_code, reply.text
        rows: list[dict[str, Any]] = reply.json()["rows"]
        return rows

    def test_is_read_by_auditors_and_admins_within_their_reach(self, running: Running):
        """
        A tenant's sees its own rows, the server's all; both open nothing else.
        """
        for tenant in ("audit-north", "audit-south"):
            running.client(tenant).get("/admin/v1/keys")
            waited(running, 1, tenant=tenant)
        for role in (Role.AUDITOR, Role.TENANT_ADMIN):
            assert {"audit-north"} == {
                row["tenant"] for row in self.rows(running, "audit-north", role)
            }
        every = self.rows(running, SHARED, Role.AUDITOR)
        souths = self.rows(running, SHARED, Role.AUDITOR, tenant="audit-south")
        auditor = running.client("audit-north", Role.AUDITOR)
        refused = [
            auditor.get("/admin/v1/audit?tenant=audit-south"),
            auditor.get("/admin/v1/keys"),
            auditor.post("/v1/ner", json=NOTE),
            running.client("audit-north").get("/admin/v1/audit"),
        ]

        assert len({row.get("tenant") for row in every}) > 2
        assert {"audit-south"} == {row["tenant"] for row in souths}
        assert {403} == {reply.status_code for reply in refused}

    def test_is_read_page_by_page(self, running: Running):
        """
        Each page says what to ask for next.
        """
        first = running.admin.get("/admin/v1/audit?limit=1").json()
        second = running.admin.get("/admin/v1/audit", params={"after": first["next"], "limit": 1})

        assert [1, 2] == [page["rows"][0]["number"] for page in (first, second.json())]


class TestTheSharedTenant:
    def test_is_an_admins_alone(self, running: Running):
        """
        What all tenants use is moved by nobody who is not an admin of all.
        """
        with pytest.raises(BadInput, match="is admin"):
            running.key(SHARED, Role.TENANT_ADMIN)
        key = running.parts.store.keys.add  # as one that was made before, or a token's
        text = "gal_" + "a" * 43
        key(SHARED, Role.TENANT_ADMIN, running.parts.keys._hash(text))
        running.publish(SHARED, "shared-other", package(seed=9))
        reply = running.anyone.put(
            "/admin/v1/aliases/ner",
            json={"adapter": "shared-other@1"},
            headers={"authorization": f"Bearer {text}", "if-match": "*"},
        )

        assert 403 == reply.status_code


class TestAKey:
    def test_ends_by_itself(self, running: Running):
        """
        After a year, if nothing else is said.
        """
        made = running.admin.post("/admin/v1/keys", json={"tenant": "ending"}).json()

        assert made["expires"] is not None
