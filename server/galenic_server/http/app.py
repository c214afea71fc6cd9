"""
Makes the server's ASGI app from parts that are passed in.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

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
    app = describe_api(
        lifespan=lifespan,
        docs_url="/docs" if shown else None,
        openapi_url="/openapi.json" if shown else None,
        # Behind a proxy a redirect would name this server's own scheme and address.
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=parts.settings.max_body_bytes,
        patience_seconds=parts.settings.patience_seconds,
        larger=dict.fromkeys(lines.STREAMED, parts.settings.max_archive_bytes),
    )
    app.add_middleware(TracingMiddleware, metrics=parts.metrics, trail=parts.trail)
    if origins := parts.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "if-match", "x-request-id"],
            expose_headers=["*"],
        )
    return app


def describe_api(**options: Any) -> FastAPI:
    """Make an app that has every route and can describe itself, but has no parts to answer by."""
    app = FastAPI(
        title="Galenic",
        description="One resident language model, and a few kilobytes for every clinical task.",
        responses=faults.DOCUMENTED,
        redoc_url=None,
        **options,
    )
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
    return app
