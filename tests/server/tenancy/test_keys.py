"""Who may ask what."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from galenic_server.schemas.admin import KeyInfo
from galenic_server.tenancy.keyring import PREFIX, Keyring, new_key
from galenic_server.tenancy.keys import Role
from tests.support.serving import Running, package

OPEN = {"/health/live", "/health/ready", "/metrics"}
NER = {"documents": [{"text": "He has gout."}], "max_tokens": 8}


def keyring(running: Running, secret: bytes, **more: Any) -> Keyring:
    store = running.parts.store
    return Keyring(store.keys, store.tenants, store.changes, secrets=[secret], **more)


def routes(running: Running) -> list[tuple[str, str]]:
    document = running.anyone.get("/openapi.json").json()
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


class TestWithoutAKey:
    def test_every_route_of_the_document_is_a_401(self, running: Running):
        """
        Case 1: health and the loopback's metrics aside. A body that is no JSON changes nothing.
        """
        for method, path in routes(running):
            if path in OPEN:
                continue
            url = path.replace("{version}", "1").replace("{", "").replace("}", "")
            replies = [running.anyone.request(method, url, content=body) for body in (None, b"{")]
            assert [401, 401] == [reply.status_code for reply in replies], path
            assert "Bearer" == replies[0].headers["www-authenticate"]

    @pytest.mark.parametrize(
        "header",
        [
            "Basic Z2FsOng=",
            "Bearer",
            "Bearer gal_x",
            "Bearer " + "a" * 10_240,
            "Bearer e30.e30.e30",
            "Bearer " + "a" * 5_000 + "." + "b" * 5_000 + ".c",
            "gal_" + "a" * 43,
            "Bearer gal_" + "é" * 43,
        ],
    )
    def test_a_wrong_one_is_a_401(self, running: Running, header: str):
        """
        Case 2: another scheme, none, a made-up one, one of 10 KB, tokens of no provider.
        """
        reply = running.anyone.get("/v1/models", headers={"authorization": header.encode()})

        assert 401 == reply.status_code

    @pytest.mark.parametrize("scheme", ["Basic ", "Token ", ""])
    def test_a_good_one_by_another_scheme_is_a_401(self, running: Running, scheme: str):
        """
        Case 2: a key opens as a bearer's, and in no other way.
        """
        sent = {"authorization": f"{scheme}{running.client('north').headers['authorization'][7:]}"}

        assert 401 == running.anyone.get("/v1/models", headers=sent).status_code


class TestRoles:
    def test_a_caller_does_not_administer(self, running: Running):
        """
        Case 3: every admin route is a 403 to it.
        """
        north = running.client("north")
        for method, path in routes(running):
            if path.startswith("/admin"):
                url = path.replace("{version}", "1").replace("{", "").replace("}", "")
                kind = {"content-type": "application/octet-stream"}
                body = json.dumps({"tenant": "north", "adapter": "a@1"})
                if not path.startswith("/admin/v1/adapters"):
                    kind = {"content-type": "application/json"}
                reply = north.request(method, url, content=body, headers=kind)
                assert 403 == reply.status_code, (method, path, reply.text)

    def test_a_tenants_admin_manages_its_own_only(self, running: Running):
        """
        It uploads, moves aliases and makes keys for its tenant, and names no other.
        """
        kind = {"content-type": "application/octet-stream"}
        chief = running.client("east", Role.TENANT_ADMIN)
        data = package(seed=9).data
        put = chief.put("/admin/v1/adapters/own", content=data, headers=kind)
        moved = chief.put("/admin/v1/aliases/ner", json={"adapter": "own@1"})
        other = chief.put("/admin/v1/adapters/own?tenant=west", content=data, headers=kind)
        promoted = chief.post("/admin/v1/keys", json={"tenant": "east", "role": "admin"})
        key = chief.post("/admin/v1/keys", json={"tenant": "east"})

        assert [201, 200, 403, 403, 201] == [
            reply.status_code for reply in (put, moved, other, promoted, key)
        ]
        assert "east" == put.json()["tenant"]
        told = running.client("east").post("/v1/ner", json=NER).json()
        assert "own" == told["adapter"]["name"]
        assert (
            "tiny-ner" == running.client("west").post("/v1/ner", json=NER).json()["adapter"]["name"]
        )

    def test_a_tenants_admin_sees_and_revokes_its_own_keys_only(self, running: Running):
        """
        Another tenant's key looks like none, and naming another tenant is refused.
        """
        chief = running.client("east", Role.TENANT_ADMIN)
        theirs = running.admin.post("/admin/v1/keys", json={"tenant": "west"}).json()

        assert {"east"} == {key["tenant"] for key in chief.get("/admin/v1/keys").json()["keys"]}
        assert 403 == chief.get("/admin/v1/keys?tenant=west").status_code
        assert 404 == chief.delete(f"/admin/v1/keys/{theirs['id']}").status_code

    def test_an_admin_may_call_everything(self, running: Running):
        """
        Tasks too.
        """
        assert 200 == running.admin.post("/v1/ner", json=NER).status_code


def every_key(client: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    """Page by page."""
    told: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("/admin/v1/keys", params=asked | after).raise_for_status().json()
        told += page["keys"]
        if page["next"] is None:
            return told
        after = {"after": page["next"]}


class TestARotatedKey:
    def test_lasts_as_long_as_the_old_one_was_made_for(self, running: Running):
        """
        A key of ten days becomes one of ten days, one of the usual year one of a year, and who
        names an end gets that.
        """
        ends = (datetime.now(UTC) + timedelta(days=10)).isoformat()
        sooner = datetime.now(UTC) + timedelta(days=1)

        def rotated(made: dict[str, str], rotation: dict[str, str]) -> tuple[KeyInfo, KeyInfo]:
            body = {"tenant": "rotating"} | made
            old = running.admin.post("/admin/v1/keys", json=body).json()
            url = f"/admin/v1/keys/{old['id']}/rotate"
            new = running.admin.post(url, json=rotation).json()
            return KeyInfo.model_validate(old), KeyInfo.model_validate(new)

        old, new = rotated({"expires": ends}, {})
        usual = rotated({}, {})
        _, named = rotated({"expires": ends}, {"expires": sooner.isoformat()})

        assert lifetime(old) == lifetime(new) != timedelta(0)
        assert [365, 365] == [round(lifetime(one) / timedelta(days=1)) for one in usual]
        assert sooner == named.expires


def lifetime(key: KeyInfo) -> timedelta:
    assert key.expires is not None
    return key.expires - key.created


class TestTheList:
    def test_comes_in_pages(self, running: Running):
        """
        Each key once, the oldest first, however they are cut; never more than was asked for.
        """
        made = [
            running.admin.post("/admin/v1/keys", json={"tenant": "paged"}).json()["id"]
            for _ in range(5)
        ]
        first = running.admin.get("/admin/v1/keys?tenant=paged&limit=2").json()

        assert (made[:2], made[1]) == ([key["id"] for key in first["keys"]], first["next"])
        for limit in (1, 2, 5, 100):
            told = every_key(running.admin, tenant="paged", limit=limit)
            assert made == [key["id"] for key in told]

    def test_begins_after_ones_own_keys_only(self, running: Running):
        """
        Another tenant's key is no place to begin, and told as one that nobody has.
        """
        chief = running.client("paged", Role.TENANT_ADMIN)
        theirs = running.admin.post("/admin/v1/keys", json={"tenant": "west"}).json()["id"]
        told = [chief.get(f"/admin/v1/keys?after={id_}") for id_ in (theirs, "nobodys")]

        assert [404, 404] == [reply.status_code for reply in told]
        assert 1 == len({reply.text for reply in told})
        assert 422 == chief.get("/admin/v1/keys?limit=0").status_code


class TestAKey:
    def test_opens_until_it_is_revoked(self, running: Running):
        """
        Here at once, though it was remembered a moment ago.
        """
        made = running.admin.post("/admin/v1/keys", json={"tenant": "north"}).json()
        mine = {"authorization": f"Bearer {made['key']}"}
        before = running.anyone.get("/v1/models", headers=mine)
        running.admin.delete(f"/admin/v1/keys/{made['id']}").raise_for_status()
        after = running.anyone.get("/v1/models", headers=mine)

        assert (200, 401) == (before.status_code, after.status_code)

    def test_revoked_on_another_replica_opens_no_longer_than_five_seconds(self, running: Running):
        """
        Case 9: what a replica remembers of a key it forgets in time.
        """
        other_replica = running.parts.store
        made = running.admin.post("/admin/v1/keys", json={"tenant": "north"}).json()
        mine = {"authorization": f"Bearer {made['key']}"}
        assert running.anyone.get("/v1/models", headers=mine).is_success
        other_replica.keys.revoke(made["id"])
        end = time.monotonic() + 5
        while running.anyone.get("/v1/models", headers=mine).is_success:
            assert time.monotonic() < end
            time.sleep(0.2)

    def test_has_256_bits_and_is_nowhere_in_the_database(self, running: Running):
        """
        Case 10: a dump holds HMACs, which open nothing; nor does a listing tell it again.
        """
        made: dict[str, Any] = running.admin.post("/admin/v1/keys", json={"tenant": "north"}).json()
        listed = json.dumps(every_key(running.admin))
        database = sa.create_engine(running.parts.settings.database)
        with database.connect() as db:
            rows = "".join(str(row) for row in db.execute(sa.text("select * from api_keys")))
        database.dispose()

        assert len(PREFIX) + 43 == len(made["key"])
        assert made["id"] in rows
        assert made["key"] not in rows + listed
        assert 1000 == len({new_key() for _ in range(1000)})

    def test_that_would_never_open_is_not_made(self, running: Running):
        """
        An end that is past is a 422; one that comes is kept.
        """
        told = [
            running.admin.post("/admin/v1/keys", json={"tenant": "north", "expires": end})
            for end in ("2026-01-01T00:00:00Z", "2126-01-01T00:00:00+01:00", "2126-01-01T00:00:00")
        ]

        assert [422, 201, 422] == [reply.status_code for reply in told]
        listed = {key["id"]: key for key in every_key(running.admin)}
        assert listed[told[1].json()["id"]]["expires"].startswith("2125-12-31T23:00:00")

    def test_of_another_servers_secret_opens_nothing(self, running: Running):
        """
        Case 10: whoever takes the database and not the secret holds no key.
        """
        key = running.key("north")
        elsewhere = keyring(running, b"another secret")

        assert elsewhere.find(key) is None

    def test_may_come_from_the_environment(self, running: Running):
        """
        GALENIC_ADMIN_KEY is an admin's without being written anywhere.
        """
        keys = keyring(running, b"s", admin_keys=["correct horse battery staple"])
        found = keys.find("correct horse battery staple")

        assert found is not None
        assert Role.ADMIN is found.role
        assert keys.has_admin()
