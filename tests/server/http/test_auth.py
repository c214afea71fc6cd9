"""Which tenant a key may manage, on every route that names one."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from galenic_server.http.app import make_app
from galenic_server.http.auth import AdminRoute
from galenic_server.http.routes.admin import admin_router
from galenic_server.tenancy.keys import Role
from tests.support.serving import Running, package

Asked = tuple[str, str]
"""A method, and a path with TENANT where the tenant's name goes."""


def admin_routes(app: FastAPI) -> Iterator[AdminRoute]:
    return (route for route in app.routes if isinstance(route, AdminRoute))


def asked_of(route: AdminRoute) -> Iterator[Asked]:
    """The requests by which *route* can be asked for a tenant; other names are made up."""
    path = route.path.replace("{tenant}", "TENANT").replace("{version:int}", "1")
    for name in ("name", "alias", "key_id", "upload_id", "replica"):
        path = path.replace(f"{{{name}}}", "some-name")
    for method in sorted(route.methods):
        yield method, path if "TENANT" in path else f"{path}?tenant=TENANT"


def answers(client: httpx.Client, asked: Asked, *tenants: str) -> list[tuple[int, str]]:
    method, path = asked
    replies = [client.request(method, path.replace("TENANT", tenant)) for tenant in tenants]
    return [(reply.status_code, reply.text) for reply in replies]


class TestATenantsAdmin:
    def test_learns_nothing_of_another_tenant_from_any_route(self, running: Running):
        """
        Every admin route, asked for a tenant in its path or its query, refuses North's admin in the
        same words whether South exists or not.
        """
        running.publish("auth-south", "some-name", package(seed=40))
        chief = running.client("auth-north", Role.TENANT_ADMIN)
        asked = [one for route in admin_routes(make_app(running.parts)) for one in asked_of(route)]
        told = {one: answers(chief, one, "auth-south", "auth-nowhere") for one in asked}

        assert len(told) > 30
        assert {403} == {status for pair in told.values() for status, _ in pair}
        assert [] == [one for one, (there, nowhere) in told.items() if there != nowhere]

    def test_manages_its_own_by_name(self, running: Running):
        """
        Naming its own tenant is as naming none.
        """
        chief = running.client("auth-north", Role.TENANT_ADMIN)
        for path in ("adapters", "aliases", "uploads", "shares", "keys"):
            named = chief.get(f"/admin/v1/{path}?tenant=auth-north")
            assert 200 == named.status_code
            assert chief.get(f"/admin/v1/{path}").text == named.text


class TestAnAdminsRoute:
    def test_cannot_forget_to_check_the_tenant(self, running: Running):
        """
        A new route that reads a tenant and checks nothing refuses another tenant's admin, and
        callers' keys.
        """
        router, app = admin_router(), make_app(running.parts)

        @router.get("/forgetful/{tenant}")
        async def forgetful(tenant: str) -> str:
            return tenant

        app.include_router(router)
        client = TestClient(app, base_url="http://127.0.0.1")
        told = [
            client.get(
                f"/admin/v1/forgetful/{tenant}",
                headers={"authorization": f"Bearer {running.key('auth-north', role)}"},
            ).status_code
            for role, tenant in (
                (Role.TENANT_ADMIN, "auth-north"),
                (Role.TENANT_ADMIN, "auth-south"),
                (Role.CALLER, "auth-north"),
                (Role.ADMIN, "auth-south"),
            )
        ]

        assert [200, 403, 403, 200] == told

    def test_is_every_route_below_admin(self, running: Running):
        """
        No route of the admin API is of another class.
        """
        app = make_app(running.parts)
        below = {one.path for one in app.routes if getattr(one, "path", "").startswith("/admin/")}

        assert below == below & {route.path for route in admin_routes(app)}

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_that_sets_limits_takes_an_admins_key(self, running: Running, method: str):
        """
        Nobody sets his own limits.
        """
        chief = running.client("auth-north", Role.TENANT_ADMIN)
        body = {"json": {}} if method == "PUT" else {}
        reply = chief.request(method, "/admin/v1/tenants/auth-north/limits", **body)

        assert 403 == reply.status_code
