"""
From an HTTP request to who asks and what answers; the last floor that knows HTTP.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import structlog
from anyio.to_thread import run_sync
from fastapi import Depends, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from galenic_adapters.keys import Role
from galenic_adapters.refs import check_name
from galenic_server.faults import ClientLeft, Forbidden, Unauthorized
from galenic_server.metrics import Metrics
from galenic_server.service import Origin, Service
from galenic_server.settings import Settings
from galenic_server.tenants import Caller, Keys

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What an app is made of."""

    service: Service
    keys: Keys
    metrics: Metrics
    settings: Settings


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def authenticate(request: Request) -> Caller:
    """Who holds the request's key; raises `Unauthorized`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send your key as 'Authorization: Bearer gal_...'")
    caller = await run_sync(parts_of(request).keys.find, token.strip())
    if caller is None:
        raise Unauthorized("no such key")
    return caller


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """
    What *work* returns. If the client leaves first it is cancelled, and the engine stops with it.

    Raises `ClientLeft`.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft("the client left before its answer")
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class KeyedRoute(APIRoute):
    """Looks at the key before a byte of the body is read or parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            request.state.caller = caller = await authenticate(request)
            structlog.contextvars.bind_contextvars(tenant=caller.tenant, key=caller.key_id)
            # Read here, where a body that is too large is not yet taken for one that is not JSON.
            await request.body()
            return await handler(request)

        return keyed


bearer = HTTPBearer(auto_error=False, description="A key of `galenic keys create`")
"""Tells the OpenAPI document about keys; `KeyedRoute` asks for them."""


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _manager(request: Request) -> Caller:
    caller = _caller(request)
    if caller.role is Role.CALLER:
        raise Forbidden("this takes the key of an admin or tenant-admin, yours is a caller's")
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]
ManagerDep = Annotated[Caller, Depends(_manager)]
PartsDep = Annotated[Parts, Depends(parts_of)]


def _service(parts: PartsDep) -> Service:
    return parts.service


def _origin(request: Request, caller: CallerDep) -> Origin:
    return Origin(caller.tenant, request.state.request_id)


def _managed(caller: ManagerDep, tenant: Annotated[str | None, Query(max_length=64)] = None) -> str:
    """The tenant whose adapters are managed: one's own, or any for an admin."""
    if tenant is None or tenant == caller.tenant:
        return caller.tenant
    if caller.role is not Role.ADMIN:
        raise Forbidden("only an admin names a tenant")
    return check_name("tenant", tenant)


ServiceDep = Annotated[Service, Depends(_service)]
OriginDep = Annotated[Origin, Depends(_origin)]
TenantDep = Annotated[str, Depends(_managed)]
