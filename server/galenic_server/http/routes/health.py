"""
Routes for health checks and metrics.
"""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from galenic_adapters.errors import Unavailable
from galenic_server.http.auth import authenticate, check_metrics
from galenic_server.http.deps import PartsDep

router = APIRouter(tags=["health"])

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, str]:
    """Answer if the process is alive; no key is needed."""
    return {"status": "live"}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready")
async def ready(parts: PartsDep) -> dict[str, str]:
    """Answer 200 if a request sent now would be answered, else 503; no key is needed."""
    if not await parts.replica.is_ready():
        raise Unavailable("the engine is not ready")
    return {"status": "ready", "backbone": str(parts.service.backbone)}


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=Response)
async def metrics(request: Request, parts: PartsDep) -> Response:
    """
    Export metrics in Prometheus' text format.

    They are open on a loopback bind, else to an admin's key or one of the role metrics. What a
    proxy hands on is not from this machine.
    """
    is_forwarded = any(name in request.headers for name in FORWARDED)
    if not parts.settings.shows_metrics or is_forwarded:
        check_metrics(await authenticate(request))
    page = parts.metrics.page(await parts.service.engine.stats())
    return Response(page, media_type=CONTENT_TYPE_LATEST)
