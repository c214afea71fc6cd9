"""
Authenticates and authorizes every route before a byte of its body is read.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import structlog
from anyio.to_thread import run_sync
from fastapi import Depends, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from galenic_adapters.refs import NAME, SHARED, check_name
from galenic_server.answering.service import Origin
from galenic_server.audit.chain import acting
from galenic_server.http.deadline import Deadline
from galenic_server.http.deps import parts_of
from galenic_server.http.faults import Forbidden, Unauthorized
from galenic_server.tenancy.keyring import Caller
from galenic_server.tenancy.keys import Role

bearer = HTTPBearer(auto_error=False, description="A key of `galenic keys create`")
"""Documents keys in OpenAPI; `KeyedRoute` checks them."""


async def authenticate(request: Request) -> Caller:
    """Return the holder of the request's key; raises `Unauthorized`, which is audited."""
    try:
        return await _holder(request)
    except Unauthorized:
        failed = {"action": "log_in", "outcome": Unauthorized.__name__, "tenant": "", "actor": ""}
        parts_of(request).trail.refusals.add(failed | _origin_of(request))
        raise


async def _holder(request: Request) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send your key as 'Authorization: Bearer gal_...'")
    keys = parts_of(request).keys
    caller = keys.recall(token.strip()) or await run_sync(keys.find, token.strip())
    if caller is None:
        raise Unauthorized("no such key")
    return caller


def _origin_of(request: Request) -> dict[str, str]:
    return {"request_id": request.state.request_id, "source": request.state.source}


def check_role(caller: Caller, *roles: Role) -> None:
    """Raise `Forbidden` unless the key is of one of these roles."""
    if caller.role not in roles:
        wanted = " or ".join(roles)
        raise Forbidden(f"this takes a key of role {wanted}, yours is of role {caller.role}")


def check_metrics(caller: Caller) -> None:
    """Raise `Forbidden` unless the key opens the metrics of all tenants."""
    check_role(caller, Role.ADMIN, Role.METRICS)
    if caller.tenant != SHARED:
        raise Forbidden(f"metrics are all tenants'; this takes a key of {SHARED}")


def check_scope(caller: Caller, tenant: str) -> None:
    """
    Raise `Forbidden` unless *caller* may manage *tenant*: an admin any, others their own.

    The tenant's existence is not checked first, since it is private too. All tenants share the
    adapters of `SHARED`, so only an admin manages it.
    """
    if _reach(caller) is not None and (tenant != caller.tenant or tenant == SHARED):
        raise Forbidden("only an admin names another tenant")


def _reach(caller: Caller) -> str | None:
    """Return the only tenant that *caller* may manage or audit, or None for all."""
    is_for_all = caller.role is Role.AUDITOR and caller.tenant == SHARED
    return None if caller.role is Role.ADMIN or is_for_all else caller.tenant


class KeyedRoute(APIRoute):
    """
    Checks the key and its tenant's limits before it reads the body, and answers in time.

    A route that reads its body itself, piece by piece, has no deadline but that of its body.
    """

    reads_body_first = True
    roles: tuple[Role, ...] = (Role.ADMIN, Role.TENANT_ADMIN, Role.CALLER)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            request.state.caller = caller = await authenticate(request)
            structlog.contextvars.bind_contextvars(tenant=caller.tenant, key=caller.key_id)
            request.state.deadline = deadline = Deadline(parts_of(request).settings.request_seconds)
            async with self.entered(request, caller):
                if not self.reads_body_first:
                    return await handler(request)
                # Read here, so that a body over the limit is not reported as malformed JSON.
                await request.body()
                async with deadline.kept():
                    return await handler(request)

        return keyed

    def entered(self, request: Request, caller: Caller) -> AbstractAsyncContextManager[None]:
        check_role(caller, *self.roles)
        return _within_limits(request, caller)


@asynccontextmanager
async def _within_limits(request: Request, caller: Caller) -> AsyncIterator[None]:
    parts_of(request).trail.check_room()
    await _count(request, caller)
    yield


async def _count(request: Request, caller: Caller) -> None:
    """Count the request against its tenant's limits until it is answered to the last byte."""
    parts = parts_of(request)
    limiter, limits = parts.limits.limiter, await parts.limits.of(caller.tenant)
    opened = limiter.open(caller.tenant, limits)
    try:
        request.state.ending.enter_context(opened)
    finally:  # also if the request is refused
        request.state.headers.update(limiter.headers(caller.tenant))


class AdminRoute(KeyedRoute):
    """
    Audits every request, and refuses callers' keys and those for another tenant.

    Limits hold here too, but for admins of the whole server, who set them.

    The tenant is the one in the path or the query, whether or not the route declares it, so no
    route can forget the check. A route that takes a tenant in its body calls `check_scope`.
    """

    roles: tuple[Role, ...] = (Role.ADMIN, Role.TENANT_ADMIN)

    def entered(self, request: Request, caller: Caller) -> AbstractAsyncContextManager[None]:
        return _audited(request, caller, self.roles)


@asynccontextmanager
async def _audited(
    request: Request, caller: Caller, roles: tuple[Role, ...]
) -> AsyncIterator[None]:
    """
    Audit the request.

    A change commits together with its audit row; reads and refusals are queued and written shortly
    after. Refusals alike are counted.
    """
    trail, record = parts_of(request).trail, _act(request, caller)
    trail.check_room()
    try:
        with acting(record) as act:
            if caller.role is not Role.ADMIN:
                await _count(request, caller)
            check_role(caller, *roles)
            _check_scopes(request, caller)
            yield
    except Exception as error:  # failed attempts are audited too
        trail.refusals.add(act.row(outcome=type(error).__name__))
        raise
    if not act.num_written:
        trail.add(act.row(outcome="done"))


def _check_scopes(request: Request, caller: Caller) -> None:
    in_path = request.path_params.get("tenant", caller.tenant)
    for tenant in (in_path, *request.query_params.getlist("tenant")):
        check_scope(caller, tenant)


def _act(request: Request, caller: Caller) -> dict[str, Any]:
    """Return the audit record of the request: of the values sent, only those that are names."""
    sent = {**request.path_params, **request.query_params}
    named = {k: v for k, v in sent.items() if k in ACT_FIELDS and NAME.fullmatch(str(v))}
    return {
        "action": request.scope["route"].name,
        "tenant": caller.tenant,
        "actor": caller.key_id,
        "actor_role": caller.role.value,
        "subject": named,
        **_origin_of(request),
    }


ACT_FIELDS = frozenset({"name", "version", "alias", "key_id", "tenant", "replica"})


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


def _admin(caller: CallerDep) -> Caller:
    check_role(caller, Role.ADMIN)
    return caller


def _origin(request: Request, caller: CallerDep) -> Origin:
    return Origin(caller.tenant, request.state.request_id)


def _reach_of(caller: CallerDep) -> str | None:
    return _reach(caller)


def _tenant_in_path(tenant: str) -> str:
    return check_name("tenant", tenant)


def _tenant_in_query(
    caller: CallerDep, tenant: Annotated[str | None, Query(max_length=64)] = None
) -> str:
    return caller.tenant if tenant is None else check_name("tenant", tenant)


AdminDep = Annotated[Caller, Depends(_admin)]
OriginDep = Annotated[Origin, Depends(_origin)]
ReachDep = Annotated[str | None, Depends(_reach_of)]
"""The only tenant that the key may manage; None for an admin key, which may manage all."""
NamedTenantDep = Annotated[str, Depends(_tenant_in_path)]
TenantDep = Annotated[str, Depends(_tenant_in_query)]
"""The tenant to manage: the caller's own, unless an admin names another."""
