"""Publishing, trying out, listing, deleting and bringing back over HTTP."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from galenic_server.tenancy.keys import Role
from tests.support.registry import KIND, ner
from tests.support.serving import Running, eventually, package


def evictions(running: Running) -> float:
    page = running.anyone.get("/metrics").text
    (found,) = re.findall(r"^galenic_slot_evictions_total (\S+)", page, re.M)
    return float(found)


class TestAVersion:
    def test_answers_as_soon_as_it_is_published(self, running: Running):
        """
        The digest is that of the bytes sent.
        """
        made = package(seed=100)
        entry = running.publish("clinic", "fresh", made)

        assert 1 == entry["version"]
        assert "sha256:" + hashlib.sha256(made.data).hexdigest() == entry["digest"]
        assert entry["digest"] == ner(running, "clinic", "fresh")["adapter"]["digest"]

    def test_evicts_nobody_elses(self, running: Running):
        """
        More uploads than there are slots leave residents alone; what has no room waits for its
        first request.
        """
        before = evictions(running)
        for i in range(12):
            running.publish("greedy", f"greedy-{i}", package(seed=7000 + i))

        assert before == evictions(running)
        assert ner(running, "greedy", "greedy-11")["documents"]

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
        Its digest is the ETag.
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
        Even a tenant's admin gets the same error, byte for byte.
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
        Adapters are sorted by name and version, and each page says where the next begins.
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


class TestAnUpload:
    def put(self, running: Running, name: str, data: bytes, **headers: str):
        sent = KIND | {key.replace("_", "-"): value for key, value in headers.items()}
        url = f"/admin/v1/adapters/{name}?tenant=clinic"
        return running.admin.put(url, content=data, headers=sent)

    def test_of_one_key_makes_one_version(self, running: Running):
        """
        Case 33: replayed, also eight at once, it is one version; another body under it is a 422.
        """
        good, other = package(seed=400).data, package(seed=401).data

        def send(_: int):
            return self.put(running, "once", good, idempotency_key="ci-run-7")

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(send, range(8)))
        clash = self.put(running, "once", other, idempotency_key="ci-run-7")
        elsewhere = self.put(running, "twice", good, idempotency_key="ci-run-7")
        listed = running.admin.get("/admin/v1/adapters?tenant=clinic&after=once@1").json()

        assert {(201, 1)} == {(one.status_code, one.json()["version"]) for one in replies}
        late = send(8)
        assert (201, 1) == (late.status_code, late.json()["version"])
        assert "true" == late.headers["idempotency-replayed"]
        assert [422, 422] == [clash.status_code, elsewhere.status_code]
        assert "idempotency-key" == clash.json()["error"]["param"]
        assert "once" not in [one["name"] for one in listed["adapters"]]

    def test_that_failed_says_why_and_is_checked_anew(self, running: Running):
        """
        Under its key: failed with its faults; nothing is written.
        """
        bad = package(template_version=7).data
        refused = [self.put(running, "sad", bad, idempotency_key="sad-1") for _ in range(2)]
        told = running.admin.get("/admin/v1/uploads/sad-1?tenant=clinic").json()
        listed = running.admin.get("/admin/v1/uploads?tenant=clinic").json()

        assert [422, 422] == [one.status_code for one in refused]
        assert ("failed", ["manifest.template_version"]) == (
            told["state"],
            [fault["path"] for fault in told["faults"]],
        )
        assert "sad-1" in [one["id"] for one in listed]
        assert 404 == running.admin.get("/admin/v1/adapters/sad?tenant=clinic").status_code
        assert 404 == running.admin.get("/admin/v1/uploads/sad-1?tenant=rival").status_code

    def test_is_ready_once_every_replica_knows_it(self, running: Running):
        """
        Checked until then; a moment, here.
        """
        self.put(running, "state", package(seed=402).data, idempotency_key="state-1")
        eventually(
            lambda: (
                running.admin.get("/admin/v1/adapters/state/1?tenant=clinic").json()["state"]
                == "ready"
            ),
            5,
        )
        told = running.admin.get("/admin/v1/uploads/state-1?tenant=clinic").json()
        assert ("ready", "state@1") == (told["state"], told["adapter"])

    def test_tried_out_tells_every_fault_and_writes_nothing(self, running: Running):
        """
        One answer has the faults of file, fit, name and quota, each with its JSON path.
        """
        running.admin.put("/admin/v1/tenants/poor", json={"max_adapters": 0})
        data = package(template_version=7, metaprompt="sha256:" + "0" * 64).data
        url = "/admin/v1/adapters/Bad_Name!/try?tenant=poor"
        told = running.admin.post(url, content=data, headers=KIND).json()
        good = running.admin.post(
            "/admin/v1/adapters/fine/try?tenant=clinic",
            content=package(seed=403).data,
            headers=KIND,
        ).json()

        assert not told["accepted"]
        assert {"manifest.template_version", "manifest.metaprompt", "name", "quota"} == {
            fault["path"] for fault in told["faults"]
        }
        assert (True, []) == (good["accepted"], good["faults"])
        assert 404 == running.admin.get("/admin/v1/adapters/fine?tenant=clinic").status_code

    def test_over_quota_is_a_507_and_leaves_nothing(self, running: Running):
        """
        Case 31: adapters or bytes; it says what it would be, and that a retry is no use.
        """
        size = len(package(seed=404).data)
        for quota in ({"max_adapters": 1}, {"max_bytes": size}):
            tenant = f"poor-{next(iter(quota)).replace('_', '-')}"
            running.admin.put(f"/admin/v1/tenants/{tenant}", json=quota).raise_for_status()
            running.publish(tenant, "first", package(seed=404))
            reply = running.admin.put(
                f"/admin/v1/adapters/second?tenant={tenant}",
                content=package(seed=405).data,
                headers=KIND,
            )
            listed = running.admin.get(f"/admin/v1/adapters?tenant={tenant}").json()["adapters"]
            kept = running.admin.get(f"/admin/v1/tenants/{tenant}").json()

            assert 507 == reply.status_code
            assert "false" == reply.headers["x-should-retry"]
            assert "at most" in reply.json()["error"]["message"]
            assert ["first"] == [one["name"] for one in listed]
            assert (1, size) == (kept["num_adapters"], kept["num_bytes"])


class TestADeletedVersion:
    def test_comes_back_until_it_is_purged(self, running: Running):
        """
        It comes back as it was; with purge it is gone at once.
        """
        made = running.publish("clinic", "lazarus", package(seed=500))
        url = "/admin/v1/adapters/lazarus/1{}tenant=clinic"
        wrong = running.admin.delete(url.format("?"), headers={"if-match": '"sha256:0"'})
        right = running.admin.delete(url.format("?"), headers={"if-match": f'"{made["digest"]}"'})
        listed = running.admin.get("/admin/v1/adapters?tenant=clinic&deleted=true").json()
        back = running.admin.post(url.format("/undelete?"))
        answered = ner(running, "clinic", "lazarus")["adapter"]["digest"]
        purged = running.admin.delete(url.format("?purge=true&"))
        gone = running.admin.post(url.format("/undelete?"))

        assert [412, 204, 200, 204, 404] == [
            reply.status_code for reply in (wrong, right, back, purged, gone)
        ]
        assert "lazarus" in [one["name"] for one in listed["adapters"]]
        assert made["digest"] == answered
