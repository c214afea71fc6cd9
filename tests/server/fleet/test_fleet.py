"""Two replicas over one PostgreSQL, with an OpenID Connect provider beside."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from galenic_server.tenancy.keys import Role
from tests.support.postgres import Postgres
from tests.support.provider import AUDIENCE, ISSUER, OidcProvider, provider
from tests.support.serving import Running, eventually, make_parts, package, serving

KIND = {"content-type": "application/octet-stream"}
ANY = {"if-match": "*"}
REVOKED_SECONDS = 5


@dataclass
class Fleet:
    """Whatever is done at *one*, *other* has to know."""

    one: Running
    other: Running
    oidc: OidcProvider
    database: str

    @property
    def both(self) -> tuple[Running, Running]:
        return self.one, self.other

    def move(self, alias: str, adapter: str) -> None:
        """At one replica, until both have seen it."""
        url = f"/admin/v1/aliases/{alias}?tenant=north"
        exists = self.one.admin.get(url).is_success
        headers = ANY if exists else {}
        self.one.admin.put(url, json={"adapter": adapter}, headers=headers).raise_for_status()
        eventually(lambda: self.one.admin.get(url).json()["converged"], 10)


@pytest.fixture(scope="module")
def fleet(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    database = Postgres()
    try:
        database.start()
        url, home = database.new_database(), tmp_path_factory.mktemp("fleet")
        with provider() as oidc:
            said = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": oidc.url}
            parts = [
                make_parts(backbone, home / name, database_url=url, port=port, **said)
                for name, port in (("a", 1), ("b", 2))
            ]
            with serving(parts[0]) as one, serving(parts[1]) as other:
                yield Fleet(one, other, oidc, url)
    finally:
        database.close()


def ask(at: Running, tenant: str, adapter: str, **headers: str) -> httpx.Response:
    body = {"documents": [{"text": "a"}], "max_tokens": 1, "adapter": adapter}
    return at.client(tenant).post("/v1/ner", json=body, headers=headers)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class TestAnUpload:
    def test_is_ready_when_both_know_it_and_seated_at_both(self, fleet: Fleet):
        """
        Within two seconds at either, before anyone has asked for it.
        """
        made = fleet.one.versions.publish("north", "fresh", package(seed=1))
        url = "/admin/v1/adapters/fresh/1?tenant=north"
        eventually(lambda: fleet.other.admin.get(url).json()["state"] == "ready", 10)
        resident = fleet.other.parts.service.engine.residents
        eventually(lambda: made["digest"] in resident, 10)
        told = [ask(at, "north", "fresh").json()["adapter"] for at in fleet.both]

        assert [made["digest"]] * 2 == [one["digest"] for one in told]

    def test_deleted_at_one_is_gone_at_the_other(self, fleet: Fleet):
        """
        It is not found, though it was resident and its name cached there.
        """
        fleet.one.versions.publish("north", "brief", package(seed=2))
        assert [200, 200] == [ask(at, "north", "brief").status_code for at in fleet.both]
        fleet.one.admin.delete("/admin/v1/adapters/brief/1?tenant=north").raise_for_status()
        eventually(lambda: ask(fleet.other, "north", "brief").status_code == 404, 5)


class TestAnAliasMove:
    def test_is_atomic_once_it_has_converged(self, fleet: Fleet):
        """
        Case 52: after *converged*, no old answer at any replica, with callers asking all along.
        """
        for seed in (10, 11):
            fleet.one.versions.publish("north", "atomic", package(seed=seed))
        fleet.move("live", "atomic@1")
        is_over = False

        def keep_asking(at: Running) -> list[tuple[float, int]]:
            told = []
            while not is_over:
                began = time.monotonic()
                told.append((began, ask(at, "north", "live").json()["adapter"]["version"]))
            return told

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(keep_asking, at) for at in fleet.both * 2]
            converged = []
            for version in (2, 1, 2):
                fleet.move("live", f"atomic@{version}")
                converged.append((time.monotonic(), version))
                time.sleep(0.3)
                fleet_is_quiet = time.monotonic()
                converged[-1] = (*converged[-1], fleet_is_quiet)
            is_over = True
            told = [one for caller in callers for one in caller.result()]

        checked = 0
        for since, version, until in converged:
            answers = {said for began, said in told if since < began < until}
            checked += sum(since < began < until for began, _ in told)
            assert answers <= {version}
        assert checked > 10

    def test_waits_for_a_replica_that_lags_until_it_is_given_up(self, fleet: Fleet):
        """
        It is named, and an admin may say that it is dead.
        """
        fleet.one.versions.publish("north", "lagging", package(seed=20))
        dead = fleet.one.parts.store.replicas.enter("elsewhere:1", 0)
        url = "/admin/v1/aliases/lag?tenant=north"
        fleet.one.admin.put(url, json={"adapter": "lagging@1"}).raise_for_status()
        eventually(lambda: fleet.one.admin.get(url).json()["waiting_for"] == [dead], 10)
        told = fleet.other.admin.get(url).json()
        state = fleet.one.admin.get("/admin/v1/adapters/lagging/1?tenant=north").json()["state"]
        fleet.other.admin.delete(f"/admin/v1/replicas/{dead}").raise_for_status()

        assert not told["converged"]
        assert "checked" == state
        assert fleet.one.admin.get(url).json()["converged"]
        assert 404 == fleet.other.admin.delete(f"/admin/v1/replicas/{dead}").status_code

    def test_reaches_a_replica_that_was_told_to_leave_by_mistake(self, fleet: Fleet):
        """
        It lives, so it enters again, and is waited for as before.
        """
        ids = [one["id"] for one in fleet.one.admin.get("/admin/v1/replicas").json()]
        assert 2 == len(ids)
        for replica in ids:
            fleet.one.admin.delete(f"/admin/v1/replicas/{replica}").raise_for_status()
        eventually(lambda: len(fleet.one.admin.get("/admin/v1/replicas").json()) == 2, 15)


class TestAReplica:
    def test_follows_again_after_whatever_went_wrong(self, fleet: Fleet):
        """
        Meanwhile it asks the database each time, so it is never wrong; then it is current again.
        """
        fleet.one.versions.publish("north", "robust", package(seed=30))
        store = fleet.other.parts.store
        with store.database.writing() as db:
            db.execute(sa.text("ALTER TABLE clock RENAME TO hidden"))
        try:
            eventually(lambda: not store.changes.is_current, 10)
            assert 200 == ask(fleet.other, "north", "robust").status_code
        finally:
            with store.database.writing() as db:
                db.execute(sa.text("ALTER TABLE hidden RENAME TO clock"))
        eventually(lambda: store.changes.is_current, 10)
        fleet.one.versions.publish("north", "robust", package(seed=31))
        url = "/admin/v1/adapters/robust/2?tenant=north"
        eventually(lambda: fleet.one.admin.get(url).json()["state"] == "ready", 10)


class TestAKey:
    @pytest.mark.parametrize("way", ["revoke", "rotate", "expire", "suspend"])
    def test_that_is_ended_at_one_opens_nothing_at_the_other(self, fleet: Fleet, way: str):
        """
        Case 9: within five seconds, though both had just let it in.
        """
        tenant = f"ending-{way}"
        made = fleet.one.admin.post("/admin/v1/keys", json={"tenant": tenant}).json()
        mine = bearer(made["key"])
        assert [200, 200] == [
            at.anyone.get("/v1/models", headers=mine).status_code for at in fleet.both
        ]
        self.end(fleet.one, way, tenant, made["id"])
        until = time.monotonic() + REVOKED_SECONDS
        while any(at.anyone.get("/v1/models", headers=mine).is_success for at in fleet.both):
            assert time.monotonic() < until
            time.sleep(0.05)

    def end(self, at: Running, way: str, tenant: str, key_id: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        url = f"/admin/v1/keys/{key_id}"
        acts: dict[str, Callable[[], httpx.Response]] = {
            "revoke": lambda: at.admin.delete(url),
            "rotate": lambda: at.admin.post(f"{url}/rotate", json={"grace_seconds": 0}),
            "expire": lambda: at.admin.post(f"{url}/expire", json={"expires": now}),
            "suspend": lambda: at.admin.put(
                f"/admin/v1/tenants/{tenant}", json={"suspended": True}
            ),
        }
        acts[way]().raise_for_status()

    def test_made_by_rotation_opens_at_both_and_so_does_the_old_one_for_its_grace(
        self, fleet: Fleet
    ):
        """
        Nobody is locked out while a new key is handed round.
        """
        old = fleet.one.admin.post("/admin/v1/keys", json={"tenant": "turning"}).json()
        chief = fleet.other.client("turning", Role.TENANT_ADMIN)
        other = fleet.other.client("rival", Role.TENANT_ADMIN)
        url, body = f"/admin/v1/keys/{old['id']}/rotate", {"grace_seconds": 60}
        theirs = other.post(url, json=body)
        new = chief.post(url, json=body).json()
        again = chief.post(url, json=body)
        told = [
            at.anyone.get("/v1/models", headers=bearer(key)).status_code
            for at in fleet.both
            for key in (old["key"], new["key"])
        ]

        assert [404, 412] == [theirs.status_code, again.status_code]
        assert [200] * 4 == told
        assert old["key"] != new["key"]


class TestAToken:
    def get(self, at: Running, token: str, path: str = "/v1/models") -> int:
        return at.anyone.get(path, headers=bearer(token)).status_code

    def test_opens_what_its_tenant_and_role_open(self, fleet: Fleet):
        """
        It does so at every replica; for an unknown or suspended tenant it opens nothing. Nobody
        is an admin by the provider's word alone.
        """
        fleet.one.admin.put("/admin/v1/tenants/north", json={}).raise_for_status()
        caller = fleet.oidc.token()
        chief, admin = fleet.oidc.token(role="tenant-admin"), fleet.oidc.token(role="admin")
        assert [200, 200] == [self.get(at, caller) for at in fleet.both]
        assert [403, 200, 403, 403] == [
            self.get(fleet.one, caller, "/admin/v1/adapters"),
            self.get(fleet.one, chief, "/admin/v1/adapters"),
            self.get(fleet.one, chief, "/admin/v1/tenants"),
            self.get(fleet.one, admin, "/admin/v1/tenants"),
        ]
        assert 401 == self.get(fleet.one, fleet.oidc.token(tenant="nobodys"))
        url = "/admin/v1/tenants/north"
        fleet.one.admin.put(url, json={"suspended": True}).raise_for_status()
        eventually(lambda: self.get(fleet.other, caller) == 401, REVOKED_SECONDS)
        fleet.one.admin.put(url, json={}).raise_for_status()
        eventually(lambda: self.get(fleet.other, caller) == 200, REVOKED_SECONDS)

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": 1},
            {"aud": "another"},
            {"iss": "https://elsewhere.example"},
            {"tenant": None},
        ],
    )
    def test_that_is_no_good_is_a_401(self, fleet: Fleet, claims: dict[str, Any]):
        """
        Case 8, over HTTP; told like an unknown key.
        """
        bad = fleet.one.anyone.get("/v1/models", headers=bearer(fleet.oidc.token(**claims)))
        unknown = fleet.one.anyone.get("/v1/models", headers=bearer("gal_" + "a" * 43))

        assert (401, unknown.text) == (bad.status_code, bad.text)

    def test_is_good_while_its_issuer_is_away(self, fleet: Fleet):
        """
        One of a key that was seen; another's is nobody's.
        """
        good, keys = fleet.oidc.token(), fleet.oidc.keys
        eventually(lambda: self.get(fleet.one, good) == 200, 30)
        fleet.oidc.is_away = True
        try:
            fleet.oidc.rotate("unseen")
            told = [self.get(fleet.one, token) for token in (fleet.oidc.token(), good)]
        finally:
            fleet.oidc.is_away, fleet.oidc.keys = False, keys

        assert [401, 200] == told
