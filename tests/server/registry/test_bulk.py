"""Adapters in bulk, over HTTP: a line for each, and one that fails leaves the others."""

import base64
import json
from collections.abc import Iterator

import httpx

from galenic_server.tenancy.keys import Role
from tests.support.registry import ner
from tests.support.serving import Running, package

URL = "/admin/v1/adapters"


def line(name: str, data: bytes, **more: object) -> bytes:
    told = {"name": name, "package": base64.b64encode(data).decode()} | more
    return json.dumps(told).encode() + b"\n"


def post(client: httpx.Client, *lines: bytes, tenant: str) -> list[dict]:
    def content() -> Iterator[bytes]:
        yield from lines

    reply = client.post(URL, params={"tenant": tenant}, content=content())
    assert 200 == reply.status_code, reply.text
    return [json.loads(text) for text in reply.text.splitlines()]


class TestABulk:
    def test_answers_at_once_and_twice_is_as_once(self, running: Running):
        """
        250 adapters, more than are written in one transaction; each is told by its line.
        """
        packages = [package(seed=5000 + i) for i in range(250)]
        lines = [line(f"many-{i}", one.data) for i, one in enumerate(packages)]
        once = post(running.admin, *lines, tenant="bulk")
        again = post(running.admin, *lines, tenant="bulk")

        assert [
            {"line": i, "state": "new", "name": name, "version": 1, "digest": one.digest}
            for i, (name, one) in enumerate(
                ((f"many-{i}", one) for i, one in enumerate(packages)), 1
            )
        ] == once[:-1]
        assert {"kind": "end", "new": 250, "there": 0, "failed": 0} == once[-1]
        assert {"kind": "end", "new": 0, "there": 250, "failed": 0} == again[-1]
        assert packages[249].digest == ner(running, "bulk", "many-249")["adapter"]["digest"]

    def test_tells_each_fault_with_its_line(self, running: Running):
        """
        No JSON, no base64, a digest that is another's, bytes that are no package, a version that
        is taken, a name that is none: the others are written.
        """
        fine, other = package(seed=5700), package(seed=5701)
        running.publish("faults", "taken", fine)
        told = post(
            running.admin,
            b"what\n",
            b'{"name": "x", "package": "?"}\n',
            line("x", fine.data, digest=other.digest),
            line("x", b"PK"),
            line("taken", other.data, version=1),
            line("Not a name", fine.data),
            line("fine", fine.data, version=3),
            tenant="faults",
        )

        codes = [one["error"]["code"] for one in told[:6]]
        assert ["bad_input"] == [*{codes[0], codes[5]}]
        assert ["rejected_upload"] * 3 == codes[1:4]
        assert "conflict" == codes[4]
        assert ["package", "digest", "package"] == [
            one["error"]["faults"][0]["path"] for one in told[1:4]
        ]
        assert ("new", "fine", 3) == tuple(told[6][name] for name in ("state", "name", "version"))
        assert {"kind": "end", "new": 1, "there": 0, "failed": 6} == told[7]

    def test_passes_over_what_is_empty(self, running: Running):
        """
        A megabyte of line ends is no work and no answer; lines keep their numbers.
        """
        rows = len(running.parts.trail.chain.latest(100_000))
        told = post(running.admin, b"\n" * (1 << 20), line("x", package().data), tenant="empty")

        assert [(1 << 20) + 1] == [one["line"] for one in told[:-1]]
        assert len(running.parts.trail.chain.latest(100_000)) < rows + 10

    def test_stops_where_nearly_all_of_it_is_wrong(self, running: Running):
        """
        After a thousand lines that failed the others are not read, and the end says so.
        """
        told = post(running.admin, b"?\n" * 5000, tenant="wrong")

        assert {"kind": "end", "new": 0, "there": 0, "failed": 1000, "is_stopped": True} == told[-1]
        assert 1001 == len(told)

    def test_ends_at_the_quota(self, running: Running):
        """
        As many are written as have room; each of the others is told that it has none.
        """
        running.admin.put("/admin/v1/tenants/small", json={"max_adapters": 2}).raise_for_status()
        lines = [line(f"a-{i}", package(seed=5800 + i).data) for i in range(4)]
        told = post(running.admin, *lines, tenant="small")

        assert ["new", "new", "failed", "failed"] == [one["state"] for one in told[:4]]
        assert "quota_exceeded" == told[2]["error"]["code"]

    def test_leaves_who_brought_which_digest_in_the_audit(self, running: Running):
        """
        A row a transaction, with every adapter that it wrote.
        """
        made = package(seed=5900)
        post(running.client("audited", Role.TENANT_ADMIN), line("a", made.data), tenant="audited")
        rows = [one for one in running.parts.trail.chain.latest(50) if one.get("digests")]

        assert [made.digest] == list(rows[0]["digests"].values())
        assert ("publish_many", "audited") == (rows[0]["action"], rows[0]["tenant"])

    def test_is_a_managers(self, running: Running):
        """
        A caller's key, and a tenant-admin's for another tenant, open nothing of it.
        """
        body = line("a", package().data)
        told = [
            running.client("north", role).post(f"{URL}?tenant={tenant}", content=body).status_code
            for role, tenant in ((Role.CALLER, "north"), (Role.TENANT_ADMIN, "south"))
        ]

        assert [403, 403] == told


def test_an_empty_bulk_is_refused(running: Running):
    """
    An empty body means that something was lost on the way.
    """
    reply = running.admin.post(URL, params={"tenant": "bulk"})

    assert (422, "body") == (reply.status_code, reply.json()["error"]["param"])
