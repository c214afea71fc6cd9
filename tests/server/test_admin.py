"""Publishing, listing, moving and deleting over HTTP."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from galenic_adapters.keys import Role
from tests.support.serving import Running, eventually, package

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


ANY = {"if-match": "*"}


def point(running: Running, alias: str, adapter: str, headers: dict = ANY, **more) -> dict:
    reply = running.admin.put(
        f"/admin/v1/aliases/{alias}?tenant=clinic",
        json={"adapter": adapter} | more,
        headers=headers,
    )
    assert 200 == reply.status_code, reply.text
    assert reply.headers["etag"] == reply.json()["etag"]
    return reply.json()


class TestAnAlias:
    def test_moves_answers_from_one_version_to_the_next(self, running: Running):
        """
        At once, and back again.
        """
        for seed in (300, 301):
            running.publish("clinic", "moving", package(seed=seed))
        told = []
        for version in (1, 2, 1):
            point(running, "live", f"moving@{version}", {} if not told else ANY)
            told.append(ner(running, "clinic", "live")["adapter"]["version"])

        assert [1, 2, 1] == told

    def test_moves_only_from_what_the_mover_saw(self, running: Running):
        """
        Case 32: of two writers with one ETag, the second hears 412; without one, 428.
        """
        for seed in (310, 311):
            running.publish("clinic", "raced", package(seed=seed))
        seen = point(running, "raced-live", "raced@1", {})["etag"]
        url = "/admin/v1/aliases/raced-live?tenant=clinic"
        move, mine = {"adapter": "raced@2"}, {"if-match": seen}
        told = [
            running.admin.put(url, json=move, headers=headers).status_code
            for headers in (mine, mine, {}, {"if-none-match": "*"}, {"if-match": f"W/{seen}"})
        ]
        drops = [
            running.admin.delete(url, headers=headers).status_code
            for headers in ({}, mine, {"if-match": '"x"'})
        ]

        assert [200, 412, 428, 412, 412] == told
        assert [428, 412, 412] == drops
        assert "raced@2" == running.admin.get(url).json()["adapter"]

    def test_in_a_race_has_one_winner(self, running: Running):
        """
        Case 32: eight at once.
        """
        running.publish("clinic", "racing", package(seed=312))
        seen = point(running, "racing-live", "racing@1", {})["etag"]
        url = "/admin/v1/aliases/racing-live?tenant=clinic"

        def move(_: int) -> int:
            body = {"adapter": "racing@1"}
            return running.admin.put(url, json=body, headers={"if-match": seen}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert [200] + [412] * 7 == sorted(pool.map(move, range(8)))

    def test_holds_its_version_against_deletion(self, running: Running):
        """
        Until it is dropped.
        """
        running.publish("clinic", "held", package(seed=320))
        point(running, "hold", "held@1", {})
        url, version = (
            "/admin/v1/aliases/hold?tenant=clinic",
            "/admin/v1/adapters/held/1?tenant=clinic",
        )
        kept = running.admin.delete(version)
        dropped = running.admin.delete(url, headers=ANY)
        gone = running.admin.delete(version)

        assert [412, 204, 204] == [kept.status_code, dropped.status_code, gone.status_code]
        assert 404 == running.admin.get(url).status_code

    def test_to_nothing_is_not_found(self, running: Running):
        """
        It cannot point to a version that is not there, nor to another tenant's.
        """
        reply = running.admin.put("/admin/v1/aliases/x?tenant=clinic", json={"adapter": "none@1"})

        assert 404 == reply.status_code


class TestACanary:
    def test_answers_its_part_and_says_so(self, running: Running):
        """
        Which version answers goes by the request's id; the reply names it.
        """
        made = [running.publish("clinic", "bird", package(seed=seed)) for seed in (330, 331)]
        canary = {"canary": {"adapter": "bird@2", "weight": 30}}
        point(running, "perch", "bird@1", {}, **canary)
        body = {"documents": [{"text": "a"}], "max_tokens": 8, "adapter": "perch"}
        caller, told = running.client("clinic"), {}
        for id_ in [f"note-{i}" for i in range(40)] * 2:
            reply = caller.post("/v1/ner", json=body, headers={"x-request-id": id_})
            used = reply.json()["adapter"]
            assert used["digest"] == made[used["version"] - 1]["digest"]
            assert used["digest"] == reply.headers["x-galenic-digest"]
            assert told.setdefault(id_, used["version"]) == used["version"]

        assert 3 < list(told.values()).count(2) < 22

    def test_takes_over_in_one_call_and_goes_back_in_one(self, running: Running):
        """
        Both want to know which alias they turn.
        """
        for seed in (340, 341):
            running.publish("clinic", "turn", package(seed=seed))
        point(running, "turning", "turn@1", {}, canary={"adapter": "turn@2", "weight": 1})
        url = "/admin/v1/aliases/turning/{}?tenant=clinic"
        blind = [running.admin.post(url.format(way)) for way in ("promote", "rollback")]
        promoted = running.admin.post(url.format("promote"), headers=ANY).json()
        again = running.admin.post(url.format("promote"), headers=ANY)
        back = running.admin.post(url.format("rollback"), headers=ANY).json()

        assert [428, 428] == [reply.status_code for reply in blind]
        assert ("turn@2", None, "turn@1") == tuple(
            promoted[name] for name in ("adapter", "canary", "previous")
        )
        assert 412 == again.status_code
        assert "turn@1" == back["adapter"]

    @pytest.mark.parametrize("weight", [0, 100, -5, 1.5, "10", None])
    def test_has_a_weight_of_a_hundred(self, running: Running, weight):
        """
        Anything else is a 422.
        """
        body = {"adapter": "turn@1", "canary": {"adapter": "turn@2", "weight": weight}}
        reply = running.admin.put("/admin/v1/aliases/y?tenant=clinic", json=body)

        assert 422 == reply.status_code


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
        Of the file, of the fit, of the name, of the quota, in one answer, each with its JSON path.
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
        As it was; with purge it is gone at once.
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


class TestSharing:
    def test_lends_answers_to_whom_it_names(self, running: Running):
        """
        As owner/name, in lists of models too; never the package, and nothing to anyone else.
        """
        made = running.publish("clinic", "lent", package(seed=600))
        url, body = "/admin/v1/shares/lent?tenant=clinic", {"tenants": ["friend"]}
        running.admin.put(url, json=body).raise_for_status()
        told = ner(running, "friend", "clinic/lent")
        ids = {
            tenant: [one["id"] for one in running.client(tenant).get("/v1/models").json()["data"]]
            for tenant in ("friend", "stranger")
        }
        ask = {"documents": [{"text": "a"}], "adapter": "clinic/lent"}
        strange = running.client("stranger").post("/v1/ner", json=ask)
        nobodys = running.client("stranger").post("/v1/ner", json=ask | {"adapter": "clinic/none"})
        taken = running.client("friend", Role.TENANT_ADMIN).get("/admin/v1/adapters/lent/1/package")
        running.admin.put(url, json={"tenants": []}).raise_for_status()
        after = running.client("friend").post("/v1/ner", json=ask)

        assert made["digest"] == told["adapter"]["digest"]
        assert "clinic/lent@1" in ids["friend"]
        assert not [one for one in ids["stranger"] if "lent" in one]
        assert [404, 404, 404, 404] == [one.status_code for one in (strange, nobodys, taken, after)]
        assert strange.text.replace("lent", "none") == nobodys.text


class TestATenant:
    def test_is_listed_with_what_it_keeps(self, running: Running):
        """
        In pages; its own admin sees it, and no other.
        """
        for name in ("ward-a", "ward-b"):
            running.publish(name, "x", package(seed=700))
        url = "/admin/v1/tenants?after=ward&limit=1"
        page = running.admin.get(url).json()
        chief = running.client("ward-a", Role.TENANT_ADMIN)

        assert (["ward-a"], "ward-a") == (
            [one["tenant"] for one in page["tenants"]],
            page["next"],
        )
        assert 1 == chief.get("/admin/v1/tenants/ward-a").json()["num_adapters"]
        assert [403, 403, 403] == [
            chief.get(path).status_code
            for path in ("/admin/v1/tenants", "/admin/v1/tenants/ward-b", "/admin/v1/replicas")
        ]
        body = {"max_adapters": 10**6}
        assert 403 == chief.put("/admin/v1/tenants/ward-a", json=body).status_code

    def test_suspended_opens_nothing_until_it_is_not(self, running: Running):
        """
        At once, here; the tenant of the admins cannot be.
        """
        caller = running.client("ward-c")
        url = "/admin/v1/tenants/ward-c"
        told = [caller.get("/v1/models").status_code]
        for suspended in (True, False):
            running.admin.put(url, json={"suspended": suspended}).raise_for_status()
            told.append(caller.get("/v1/models").status_code)

        assert [200, 401, 200] == told
        reply = running.admin.put("/admin/v1/tenants/galenic", json={"suspended": True})
        assert 422 == reply.status_code


ARCHIVE_URL = "/admin/v1/tenants/{}/archive"


@pytest.fixture(scope="module")
def archive(running: Running) -> bytes:
    """Of a tenant with versions, one deleted, an alias with a canary, and a share."""
    for seed in (800, 801, 802):
        running.publish("leaving", "a", package(seed=seed))
    running.admin.delete("/admin/v1/adapters/a/1?tenant=leaving").raise_for_status()
    body = {"adapter": "a@2", "canary": {"adapter": "a@3", "weight": 10}}
    running.admin.put("/admin/v1/aliases/live?tenant=leaving", json=body).raise_for_status()
    lent = {"tenants": ["friend"]}
    running.admin.put("/admin/v1/shares/live?tenant=leaving", json=lent).raise_for_status()
    return running.admin.get(ARCHIVE_URL.format("leaving")).content


class TestAnArchive:
    def test_brings_a_tenant_as_it_was(self, running: Running, archive: bytes):
        """
        Twice is as once; its numbers stay taken; it holds no key.
        """
        replies = [
            running.admin.put(ARCHIVE_URL.format("arriving"), content=archive) for _ in range(2)
        ]
        told = [reply.json() for reply in replies]
        there = running.admin.get("/admin/v1/adapters?tenant=arriving").json()["adapters"]
        alias = running.admin.get("/admin/v1/aliases/live?tenant=arriving").json()
        taken = running.admin.put(
            "/admin/v1/adapters/a/1?tenant=arriving",
            content=package(seed=9).data,
            headers=KIND,
        )

        assert [200, 200] == [reply.status_code for reply in replies], replies[0].text
        assert told[0] == told[1]
        assert [2, 1, 1, 1] == list(told[0].values())
        assert [2, 3] == [one["version"] for one in there]
        assert ("a@2", "a@3") == (alias["adapter"], alias["canary"]["adapter"])
        assert 412 == taken.status_code
        assert b"gal_" not in archive and b"hmac" not in archive

    def test_cut_or_changed_brings_nothing(self, running: Running, archive: bytes):
        """
        Case 48's half an upload: every cut at a line and within one, a byte more, other bytes.
        """
        lines = archive.splitlines(keepends=True)
        swapped = [lines[0], lines[2], lines[1], *lines[3:]]
        for number, bad in enumerate(
            [
                b"",
                b"".join(lines[:-1]),
                archive[:-40],
                archive[: len(archive) // 2],
                archive + b"{}\n",
                b"".join(swapped),
                archive.replace(b'"a"', b'"b"', 1),
                b'{"kind": "' + b"[" * 100_000,
            ]
        ):
            tenant = f"broken-{number}"
            reply = running.admin.put(ARCHIVE_URL.format(tenant), content=bad)
            assert 422 == reply.status_code, reply.text
            assert "archive" == reply.json()["error"]["param"]
            listed = running.admin.get(f"/admin/v1/adapters?tenant={tenant}").json()
            assert [] == listed["adapters"]

    def test_is_checked_like_an_upload(self, running: Running):
        """
        A package that this server would refuse is named by its line, and nothing is brought.
        """
        forged = forged_archive(package(seed=1).data, package(template_version=7).data)
        reply = running.admin.put(ARCHIVE_URL.format("forged"), content=forged)

        assert 422 == reply.status_code
        assert ["line[3].manifest.template_version"] == [
            fault["path"] for fault in reply.json()["error"]["faults"]
        ]
        assert [] == running.admin.get("/admin/v1/adapters?tenant=forged").json()["adapters"]

    def test_is_for_admins_of_that_tenant(self, running: Running, archive: bytes):
        """
        Its own admin takes it and brings it; another tenant's does not.
        """
        url = ARCHIVE_URL.format("leaving")
        own, other = (running.client(name, Role.TENANT_ADMIN) for name in ("leaving", "elsewhere"))

        assert 200 == own.get(url).status_code
        assert 200 == own.put(url, content=archive).status_code
        assert [403, 403] == [
            reply.status_code for reply in (other.get(url), other.put(url, content=archive))
        ]
        assert 403 == running.client("leaving").put(url, content=archive).status_code


def forged_archive(*packages: bytes) -> bytes:
    """Well-made around whatever the packages are."""
    lines = [{"kind": "tenant", "form": 1, "tenant": "x"}]
    lines += [
        {
            "kind": "adapter",
            "name": "a",
            "version": number,
            "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
            "package": base64.b64encode(data).decode(),
        }
        for number, data in enumerate(packages, 1)
    ]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = {"kind": "end", "num_lines": len(lines), "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(end).encode()


class TestVllmsRoutes:
    def test_load_and_unload_what_is_registered(self, running: Running):
        """
        By version, by name and by digest, in vLLM's words; the loaded name answers.
        """
        made = running.publish("clinic", "lora", package(seed=900))
        for number, path in enumerate(("lora@1", "lora", made["digest"])):
            name = f"loaded-{number}"
            load = {"lora_name": name, "lora_path": path}
            reply = running.client("clinic", Role.TENANT_ADMIN).post(
                "/v1/load_lora_adapter", json=load
            )
            assert f"Success: LoRA adapter '{name}' added successfully." == reply.text
            assert made["digest"] == ner(running, "clinic", name)["adapter"]["digest"]
        chief = running.client("clinic", Role.TENANT_ADMIN)
        again = chief.post("/v1/load_lora_adapter", json=load)
        inplace = chief.post("/v1/load_lora_adapter", json=load | {"load_inplace": True})
        unload = [chief.post("/v1/unload_lora_adapter", json={"lora_name": name}) for _ in range(2)]

        assert 400 == again.status_code
        assert "has already been loaded" in again.json()["error"]["message"]
        assert [200, 200, 404] == [one.status_code for one in (inplace, *unload)]

    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "./adapters/x",
            "../x",
            "C:\\models",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data",
            "https://example.com/a.safetensors",
            "s3://bucket/a",
            "hf://org/name",
            "org/name",
            "~/x",
            "x\0",
            "lora@1/../../x",
        ],
    )
    def test_open_no_path_and_no_address(self, running: Running, path: str):
        """
        Case 29: what tools send besides is refused before anything is touched, and says what to do.
        """
        load = {"lora_name": "sneaky", "lora_path": path}
        reply = running.client("clinic", Role.TENANT_ADMIN).post("/v1/load_lora_adapter", json=load)

        assert 400 == reply.status_code
        assert "never a path or an address" in reply.json()["error"]["message"]
        assert path not in reply.text
        asked = running.admin.get("/admin/v1/aliases/sneaky?tenant=clinic")
        assert 404 == asked.status_code

    def test_are_for_admins(self, running: Running):
        """
        A caller's key does not load.
        """
        load = {"lora_name": "x", "lora_path": "lora@1"}
        for path, body in (("load", load), ("unload", {"lora_name": "x"})):
            reply = running.client("clinic").post(f"/v1/{path}_lora_adapter", json=body)
            assert 403 == reply.status_code
