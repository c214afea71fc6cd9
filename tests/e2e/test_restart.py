"""The engine's process dies under load: everyone hears it once, and it comes back as it was."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from galenic_client.types import NliDocument
from tests.support.real_server import RealServer, Zoo, odds_of_yes

NOTE: NliDocument = {"premise": "He has gout.", "hypothesis": "He is ill."}
NUM_PLAIN = NUM_STREAMED = 6
ENDLESS = {
    "messages": [{"role": "user", "content": "List what he has: Xylophonitis."}],
    "max_tokens": 2_000,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "many",
            "schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 1_000},
        },
    },
}


@pytest.mark.slow
class TestAKilledEngine:
    def test_everyone_hears_once_and_the_adapters_come_back(self, server: RealServer, zoo: Zoo):
        """
        Kill -9 with twelve requests in flight: one error each. The server says that it is not
        ready, until a new engine holds all residents again and answers as before. It
        compiles nothing a second time. No line of either engine's quotes what was in flight.
        """
        refs = [_publish(server, zoo, seed) for seed in (1, 4, 16)]
        with server.client() as client:
            before = [odds_of_yes(client.nli([NOTE], adapter=ref))[0] for ref in refs]
            resident = server.metric("galenic_resident_adapters")
            loads = server.metric("galenic_slot_loads_total")

            heard = asyncio.run(_kill_under_load(server, refs))
            server.wait(ready=False)
            server.wait(ready=True)
            came_back = server.metric("galenic_resident_adapters")
            after = [odds_of_yes(client.nli([NOTE], adapter=ref))[0] for ref in refs]

        assert ["unavailable"] * (NUM_PLAIN + NUM_STREAMED) == heard
        assert 1 == server.metric("galenic_engine_restarts_total")
        assert resident == came_back
        assert loads == server.metric("galenic_slot_loads_total")
        assert before == pytest.approx(after, abs=1e-3)
        assert "Directly load AOT compilation" in server.said()
        assert "Xylophonitis" not in server.said()


def _publish(server: RealServer, zoo: Zoo, seed: int) -> str:
    with server.admin() as admin:
        told = admin.push(f"seed-{seed}", zoo.random_package(seed).data, tenant="north")
    return f"{told.name}@{told.version}"


async def _kill_under_load(server: RealServer, refs: list[str]) -> list[str]:
    """The error that each of the requests ended with."""
    bearer = {"authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=bearer, timeout=300) as http:
        models = [refs[i % len(refs)] for i in range(NUM_PLAIN)]
        plain = [asyncio.create_task(_plain(http, model)) for model in models]
        started = [asyncio.Event() for _ in range(NUM_STREAMED)]
        streamed = [
            asyncio.create_task(_streamed(http, model, event))
            for model, event in zip(models, started, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in started))
        assert not any(task.done() for task in (*plain, *streamed))
        server.core().kill()
        return await asyncio.gather(*plain, *streamed)


async def _plain(http: httpx.AsyncClient, model: str) -> str:
    reply = await http.post("/v1/chat/completions", json=ENDLESS | {"model": model})
    assert 503 == reply.status_code
    assert reply.headers["retry-after"]
    return str(reply.json()["error"]["code"])


async def _streamed(http: httpx.AsyncClient, model: str, started: asyncio.Event) -> str:
    body = ENDLESS | {"model": model, "stream": True}
    errors: list[dict[str, Any]] = []
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            event = json.loads(line[6:]) if line.startswith("data: {") else {}
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                started.set()
            if "error" in event:
                errors.append(event["error"])
    (error,) = errors
    return str(error["code"])
