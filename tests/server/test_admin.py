"""Publishing, listing, moving and deleting over HTTP."""

import hashlib

import pytest

from galenic_adapters.keys import Role
from tests.support.serving import Running, package

KIND = {"content-type": "application/octet-stream"}


def ner(running: Running, tenant: str, adapter: str) -> dict:
    body = {"documents": [{"text": "He has gout."}], "max_tokens": 8, "adapter": adapter}
    reply = running.client(tenant).post("/v1/ner", json=body)
    assert 200 == reply.status_code, reply.text
    return reply.json()


class TestAVersion:
    def test_answers_as_soon_as_it_is_published(self, running: Running):
        """
        And the digest is that of the bytes sent.
        """
        made = package(seed=100)
        entry = running.publish("clinic", "fresh", made)

        assert 1 == entry["version"]
        assert "sha256:" + hashlib.sha256(made.data).hexdigest() == entry["digest"]
        assert entry["digest"] == ner(running, "clinic", "fresh")["adapter"]["digest"]

    def test_never_changes(self, running: Running):
        """
        The same bytes again are fine, others are a 412, and the first ones stay.
        """
        path = "/admin/v1/adapters/fixed/3?tenant=clinic"
        first = running.admin.put(path, content=package(seed=1).data, headers=KIND)
        again = running.admin.put(path, content=package(seed=1).data, headers=KIND)
        other = running.admin.put(path, content=package(seed=2).data, headers=KIND)
        now = running.admin.get(path)

        assert [201, 201, 412] == [first.status_code, again.status_code, other.status_code]
        assert first.json()["digest"] == now.json()["digest"]

    def test_comes_back_as_the_bytes_it_was(self, running: Running):
        """
        With its digest as ETag.
        """
        made = package(seed=101)
        running.publish("clinic", "kept", made)
        reply = running.admin.get("/admin/v1/adapters/kept/1/package?tenant=clinic")

        assert made.data == reply.content
        assert f'"{made.digest}"' == reply.headers["etag"]

    def test_deleted_is_gone_and_its_number_stays_taken(self, running: Running):
        """
        Requests for it are 404, and the next upload is the next version.
        """
        running.publish("clinic", "brief", package(seed=102))
        ner(running, "clinic", "brief@1")
        gone = running.admin.delete("/admin/v1/adapters/brief/1?tenant=clinic")
        body = {"documents": [{"text": "a"}], "adapter": "brief@1"}
        asked = running.client("clinic").post("/v1/ner", json=body)

        assert (204, 404) == (gone.status_code, asked.status_code)
        assert 2 == running.publish("clinic", "brief", package(seed=103))["version"]

    def test_of_another_tenant_looks_like_none(self, running: Running):
        """
        To a tenant's own admin too, byte for byte.
        """
        running.publish("clinic", "hidden", package(seed=104))
        other = running.client("rival", Role.TENANT_ADMIN)
        for method in ("GET", "DELETE"):
            theirs = other.request(method, "/admin/v1/adapters/hidden/1")
            nobodys = other.request(method, "/admin/v1/adapters/nobody/1")
            assert (404, 404) == (theirs.status_code, nobodys.status_code)
            assert theirs.text.replace("hidden", "nobody") == nobodys.text


class TestAListing:
    def test_comes_in_pages(self, running: Running):
        """
        By name and version, and each page says where the next begins.
        """
        for seed in range(3):
            running.publish("archive", "a", package(seed=200 + seed))
        running.publish("archive", "b", package(seed=203))
        url, names, after = "/admin/v1/adapters?tenant=archive&limit=3", [], ""
        pages = 0
        while after is not None:
            page = running.admin.get(url, params={"after": after} if after else {})
            page = running.admin.get(url + (f"&after={after}" if after else "")).json()
            names += [f"{one['name']}@{one['version']}" for one in page["adapters"]]
            after, pages = page["next"], pages + 1

        assert ["a@1", "a@2", "a@3", "b@1"] == names
        assert 2 == pages

    @pytest.mark.parametrize("query", ["limit=0", "limit=9999", "after=x", "tenant=Ü"])
    def test_bounds_are_kept(self, running: Running, query: str):
        """
        A wrong page is a 422 that names its field.
        """
        reply = running.admin.get(f"/admin/v1/adapters?{query}")

        assert 422 == reply.status_code
        assert query.split("=")[0] in ("after", reply.json()["error"]["param"])


class TestAnAlias:
    def test_moves_answers_from_one_version_to_the_next(self, running: Running):
        """
        At once, and back again.
        """
        for seed in (300, 301):
            running.publish("clinic", "moving", package(seed=seed))
        told = []
        for version in (1, 2, 1):
            body = {"adapter": f"moving@{version}"}
            running.admin.put("/admin/v1/aliases/live?tenant=clinic", json=body).raise_for_status()
            told.append(ner(running, "clinic", "live")["adapter"]["version"])

        assert [1, 2, 1] == told

    def test_moves_only_from_where_the_mover_saw_it(self, running: Running):
        """
        With expect, the second of two movers hears a 412.
        """
        for seed in (310, 311):
            running.publish("clinic", "raced", package(seed=seed))
        url = "/admin/v1/aliases/raced-live?tenant=clinic"
        running.admin.put(url, json={"adapter": "raced@1"}).raise_for_status()
        move = {"adapter": "raced@2", "expect": "raced@1"}

        assert [200, 412] == [running.admin.put(url, json=move).status_code for _ in range(2)]

    def test_holds_its_version_against_deletion(self, running: Running):
        """
        Until it is dropped.
        """
        running.publish("clinic", "held", package(seed=320))
        url, version = (
            "/admin/v1/aliases/hold?tenant=clinic",
            "/admin/v1/adapters/held/1?tenant=clinic",
        )
        running.admin.put(url, json={"adapter": "held@1"}).raise_for_status()
        kept = running.admin.delete(version)
        dropped = running.admin.delete(url)
        gone = running.admin.delete(version)

        assert [412, 204, 204] == [kept.status_code, dropped.status_code, gone.status_code]
        assert 404 == running.admin.get(url).status_code

    def test_to_nothing_is_not_found(self, running: Running):
        """
        It cannot point to a version that is not there, nor to another tenant's.
        """
        reply = running.admin.put("/admin/v1/aliases/x?tenant=clinic", json={"adapter": "none@1"})

        assert 404 == reply.status_code
