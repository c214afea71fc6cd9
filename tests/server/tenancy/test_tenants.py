"""Tenants over HTTP: listed, bounded, suspended, carried off and brought in."""

import base64
import hashlib
import json

import pytest

from galenic_server.tenancy.keys import Role
from tests.support.registry import KIND
from tests.support.serving import Running, package


class TestATenant:
    def test_is_listed_with_what_it_keeps(self, running: Running):
        """
        Tenants are listed in pages; its own admin sees a tenant, and no other.
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
        Its keys are invalid here at once; the admins' own tenant cannot be suspended.
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
        told = [record for record, _ in running.parts.trail.chain.rows()]
        brought = [one for one in told if one.get("action") == "bring" and "digests" in one]
        assert {"a@2", "a@3"} == set(brought[0]["digests"])

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
