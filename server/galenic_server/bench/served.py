"""
Measures the server: prompts over HTTP against the engine in process, the time from an upload to
being servable, and the effect of uploads and deletes on other requests.

The server is a process of its own, started as by `galenic serve`. Rounds are interleaved, so that
one of the two engines works at a time.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from functools import cache
from statistics import median
from typing import Any

import httpx

from galenic_adapters.backbone.weights import ensure
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.refs import SHARED
from galenic_adapters.tasks.base import TaskName
from galenic_server.bench.asking import Speaker, of_engine
from galenic_server.bench.churn import LOAD, Churn, disturb
from galenic_server.bench.stage import Arm, Stage, adapter, mixed, take_turns
from galenic_server.bench.workload import Prompt
from galenic_server.engine.contract import Delta, Engine

COMPLETIONS = "/v1/completions"
EVENT = "data: "
START_SECONDS = 600
NUM_ADAPTERS = 64


async def measure(stage: Stage, engine: Engine) -> None:
    if not stage.has_weights:
        stage.missing["HTTP"] = "a server needs a backbone with weights"
        return
    with _server(stage) as (url, key):
        async with _client(url, key) as http:
            await _until_ready(http)
            await _upload(stage, http, NUM_ADAPTERS)
            if stage.kind != "vllm":
                stage.missing["HTTP"] = "completions over HTTP need vLLM"
                return
            await _measure(stage, engine, http)
            await _measure_churn(stage, http)


async def _measure(stage: Stage, engine: Engine, http: httpx.AsyncClient) -> None:
    def prompts_of(number: int) -> list[Prompt]:
        rng = stage.rng(number, 14)
        drawn = stage.draw(rng, stage.preset.num_requests)
        return mixed(drawn, NUM_ADAPTERS, rng, tenant="http")

    # The warm-up round leaves every adapter's prompt in both caches.
    arms = [
        Arm("HTTP", _of_server(http), prompts_of),
        Arm("in process", of_engine(engine), prompts_of),
    ]
    await take_turns(stage, "http", arms)


async def _measure_churn(stage: Stage, http: httpx.AsyncClient) -> None:
    async def upload(name: str) -> None:
        await _sent(http, name, _package(stage, name).data)

    async def delete(name: str) -> None:
        reply = await http.delete(f"{_path(name)}/1", params={"tenant": SHARED})
        reply.raise_for_status()

    churn = Churn(
        "churn, HTTP",
        "no uploads",
        "uploads",
        "upload under churn, ms",
        _streamed_by(http),
        upload,
        delete,
    )
    reached = [each.measures["requests/s"] for each in stage.rounds if each.arm == "HTTP"]
    await disturb(stage, churn, NUM_ADAPTERS, LOAD * median(reached))


def _of_server(http: httpx.AsyncClient) -> Speaker:
    """Make a speaker that gets whole answers, so the first token is seen with the last."""

    async def speak(prompt: Prompt) -> AsyncIterator[Delta]:
        reply = await http.post(COMPLETIONS, json=_body(prompt))
        answer = reply.raise_for_status().json()
        yield Delta("", answer["usage"]["completion_tokens"])

    return speak


def _streamed_by(http: httpx.AsyncClient) -> Speaker:
    """Make a speaker that streams: each event is a delta, and the last has the token count."""

    async def speak(prompt: Prompt) -> AsyncIterator[Delta]:
        body = _body(prompt) | {"stream": True, "stream_options": {"include_usage": True}}
        async with http.stream("POST", COMPLETIONS, json=body) as reply:
            async for line in reply.raise_for_status().aiter_lines():
                if line.startswith(EVENT + "{"):
                    usage = json.loads(line.removeprefix(EVENT)).get("usage") or {}
                    yield Delta("", usage.get("completion_tokens", 0))

    return speak


def _body(prompt: Prompt) -> dict[str, Any]:
    return {
        "model": prompt.adapter,
        "prompt": prompt.text_ids,
        "max_tokens": prompt.num_tokens,
        "ignore_eos": True,
    }


async def _upload(stage: Stage, http: httpx.AsyncClient, count: int) -> None:
    """Upload adapters one by one; the server answers once its engine can serve the adapter."""
    for name in map(adapter, range(max(count, stage.preset.num_uploads))):
        data = _package(stage, name).data
        since = time.perf_counter()
        await _sent(http, name, data)
        stage.samples.setdefault("upload, ms", []).append(1000 * (time.perf_counter() - since))


async def _sent(http: httpx.AsyncClient, name: str, data: bytes) -> None:
    kind = {"content-type": "application/octet-stream"}
    reply = await http.put(_path(name), params={"tenant": SHARED}, content=data, headers=kind)
    reply.raise_for_status()


def _path(name: str) -> str:
    return f"/admin/v1/adapters/{name}"


@cache
def _backbone(path: str) -> BackboneId:
    found = ensure(path)
    return BackboneId(name=found.name, revision=found.revision)


def _package(stage: Stage, name: str) -> Package:
    factor = stage.factors(name)
    manifest = Manifest(
        name=name,
        task=TaskName.NER,
        labels=("Disease",),
        template_version=1,
        backbone=_backbone(stage.backbone),
        metaprompt=None,
        shapes=factor.shapes,
        dtype="float32",
        licence="Apache-2.0",
        created=date(2026, 1, 1),
    )
    return Package.write(manifest, factor)


@contextmanager
def _server(stage: Stage) -> Iterator[tuple[str, str]]:
    """Start a server and yield its URL and admin key; it is stopped at the end."""
    key, port = secrets.token_hex(16), _free_port()
    with tempfile.TemporaryDirectory() as home:
        config = stage.config(NUM_ADAPTERS)
        settings = {
            "HOME": home,
            "PORT": port,
            "ENGINE": stage.kind,
            "BACKBONE": stage.backbone,
            "ADMIN_KEY": key,
            "DTYPE": config.dtype,
            "CONTEXT_TOKENS": config.context_tokens,
            "ENFORCE_EAGER": config.enforce_eager,
            "NUM_SLOTS": stage.preset.num_uploads + NUM_ADAPTERS,
            "LOG_LEVEL": "error",
        }
        given = {f"GALENIC_{name}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "galenic_server"]
        process = subprocess.Popen(command, env=os.environ | given, stdout=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}", key
        finally:
            process.terminate()
            process.wait(60)


@asynccontextmanager
async def _client(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    bearer = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=512)
    async with httpx.AsyncClient(
        base_url=url, headers=bearer, timeout=START_SECONDS, limits=limits
    ) as http:
        yield http


async def _until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await _is_ready(http):  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(0.2)


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health/ready")).is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
