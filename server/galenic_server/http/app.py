"""
Makes the server's ASGI app from parts that are passed in.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from galenic_server import logs
from galenic_server.http import faults
from galenic_server.http.deps import Parts
from galenic_server.http.middleware import BodyLimitMiddleware, TracingMiddleware
from galenic_server.http.routes import (
    adapters,
    aliases,
    audit,
    bulk,
    chat,
    health,
    keys,
    limits,
    lines,
    lora,
    models,
    tasks,
    tenants,
)


def make_app(
    parts: Parts,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_failed_start: Callable[[], None] = lambda: None,
) -> FastAPI:
    """
    Make the app. ``/health/live`` answers at once; routes that need the engine answer 503 at first.

    *on_ready* is called once the engine has answered, *on_failed_start* if it cannot be started.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        logs.tell_of_tasks(asyncio.get_running_loop())
        parts.trail.start()
        life = parts.replica.live(on_ready=on_ready, on_failed_start=on_failed_start)
        living = asyncio.create_task(life)
        try:
            yield
        finally:
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living
            await parts.trail.stop()

    shown = parts.settings.shows_docs
    app = FastAPI(
        title="Galenic",
        description="One resident language model, and a few kilobytes for every clinical task.",
        lifespan=lifespan,
        responses=faults.DOCUMENTED,
        docs_url="/docs" if shown else None,
        redoc_url=None,
        openapi_url="/openapi.json" if shown else None,
    )
    app.state.parts = parts
    faults.install(app)
    for routes in (
        tasks,
        chat,
        models,
        adapters,
        aliases,
        keys,
        tenants,
        limits,
        lora,
        audit,
        health,
    ):
        app.include_router(routes.router)
    app.include_router(tenants.streamed)
    app.include_router(bulk.streamed)
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=parts.settings.max_body_bytes,
        patience_seconds=parts.settings.patience_seconds,
        larger=dict.fromkeys(lines.STREAMED, parts.settings.max_archive_bytes),
    )
    app.add_middleware(TracingMiddleware, metrics=parts.metrics, trail=parts.trail)
    return app
