"""
From an HTTP request to who asks and what answers; the last floor that knows HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import structlog
from anyio.to_thread import run_sync
from fastapi import Depends, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from galenic_adapters.refs import NAME, check_name
from galenic_server.answering.service import Origin, Service
from galenic_server.audit.chain import acting
from galenic_server.audit.trail import Trail
from galenic_server.fleet.follower import Follower
from galenic_server.fleet.residents import Residents
from galenic_server.http.faults import ClientLeft, Forbidden, Unauthorized
from galenic_server.metrics import Metrics
from galenic_server.registry.publisher import Registry
from galenic_server.settings import Settings
from galenic_server.tenancy.keyring import Caller, Keys
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.tenant_limits import TenantLimits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What an app is made of."""

    service: Service
    registry: Registry
    keys: Keys
    metrics: Metrics
    settings: Settings
    trail: Trail
    limits: TenantLimits
    follower: Follower
    residents: Residents


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def authenticate(request: Request) -> Caller:
    """Who holds the request's key; raises `Unauthorized`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send your key as 'Authorization: Bearer gal_...'")
    keys = parts_of(request).keys
    caller = keys.recall(token.strip()) or await run_sync(keys.find, token.strip())
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
    """Looks at the key, and at what its tenant may still use, before a byte of the body is read."""

    reads_body_first = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            request.state.caller = caller = await authenticate(request)
            structlog.contextvars.bind_contextvars(tenant=caller.tenant, key=caller.key_id)
            async with self.entered(request, caller):
                # Read here, where one that is too large is not yet taken for one that is no JSON.
                if self.reads_body_first:
                    await request.body()
                return await handler(request)

        return keyed

    def entered(self, request: Request, caller: Caller) -> AbstractAsyncContextManager[None]:
        return _within_limits(request, caller)


@asynccontextmanager
async def _within_limits(request: Request, caller: Caller) -> AsyncIterator[None]:
    """The request counts against its tenant's limits until it is answered to the last byte."""
    parts = parts_of(request)
    parts.trail.check_room()
    limiter, limits = parts.limits.limiter, await parts.limits.of(caller.tenant)
    opened = limiter.open(caller.tenant, limits)
    try:
        request.state.ending.enter_context(opened)
    finally:  # also where it is refused
        request.state.headers.update(limiter.headers(caller.tenant))
    yield


class AdminRoute(KeyedRoute):
    """What is done here is done by someone: every request leaves its audit row."""

    def entered(self, request: Request, caller: Caller) -> AbstractAsyncContextManager[None]:
        return _audited(request, caller)


@asynccontextmanager
async def _audited(request: Request, caller: Caller) -> AsyncIterator[None]:
    """What changes the database takes its row along; a read or a refusal is written soon after."""
    trail, record = parts_of(request).trail, _act(request, caller)
    trail.check_room()
    try:
        with acting(record) as act:
            yield
    except Exception as error:  # whatever it was, it was tried; and it is raised on
        trail.add(act.told(outcome=type(error).__name__))
        raise
    if not act.num_written:
        trail.add(act.told(outcome="done"))


def _act(request: Request, caller: Caller) -> dict[str, Any]:
    """Who does what to what: names that are ones, nothing else that was sent."""
    sent = {**request.path_params, **request.query_params}
    named = {k: v for k, v in sent.items() if k in ACT_FIELDS and NAME.fullmatch(str(v))}
    return {
        "action": request.scope["route"].name,
        "tenant": caller.tenant,
        "actor": caller.key_id,
        "actor_role": caller.role.value,
        "request_id": request.state.request_id,
        "subject": named,
    }


ACT_FIELDS = frozenset({"name", "version", "alias", "key_id", "tenant", "replica"})

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


def _admin(request: Request) -> Caller:
    caller = _caller(request)
    if caller.role is not Role.ADMIN:
        raise Forbidden("this takes an admin's key")
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]
ManagerDep = Annotated[Caller, Depends(_manager)]
AdminDep = Annotated[Caller, Depends(_admin)]
PartsDep = Annotated[Parts, Depends(parts_of)]


def _service(parts: PartsDep) -> Service:
    return parts.service


def _registry(parts: PartsDep) -> Registry:
    return parts.registry


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
RegistryDep = Annotated[Registry, Depends(_registry)]
OriginDep = Annotated[Origin, Depends(_origin)]
TenantDep = Annotated[str, Depends(_managed)]
