"""
The parts of an app, and dependencies by which routes get them.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from galenic_server.answering.service import Service
from galenic_server.audit.trail import Trail
from galenic_server.fleet.replica import Replica
from galenic_server.http.faults import ClientLeft
from galenic_server.metrics import Metrics
from galenic_server.registry.publisher import Publisher
from galenic_server.registry.store import Store
from galenic_server.settings import Settings
from galenic_server.tenancy.keyring import Keyring
from galenic_server.tenancy.tenant_limits import TenantLimits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """Holds the parts of an app."""

    service: Service
    store: Store
    publisher: Publisher
    keys: Keyring
    metrics: Metrics
    settings: Settings
    trail: Trail
    limits: TenantLimits
    replica: Replica


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """
    Run *work*, and cancel it (and the engine's work for it) if the client disconnects first.

    Raises `ClientLeft` then.
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


PartsDep = Annotated[Parts, Depends(parts_of)]


def _service(parts: PartsDep) -> Service:
    return parts.service


ServiceDep = Annotated[Service, Depends(_service)]
