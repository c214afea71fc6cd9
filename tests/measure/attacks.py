"""
What attackers send, again and again, beside honest tenants; `tests.measure.soak` runs it.

Each attack is one of those that a server once gave way to, in `deploy/SECURITY.md`'s numbers.
"""

import asyncio
import base64
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

MIB = 1 << 20
CALM_SECONDS = 0.05
"""Between two turns of one attack, so that the others have theirs on this machine too."""
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "string", "pattern": "a" + "+" * 33_000},
    {"type": "string", "pattern": "(" * 29_500},
    {"type": "string", "pattern": "^(.{0,1000}){0,1000}$"},
    {"type": "object", "propertyNames": {"pattern": "^(a|b){1,5000}$"}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2500)}},
    {"$ref": "Wilhelmina\n{}"},
)


@dataclass
class Attacker:
    """Talks to one server, with a caller's key and a tenant-admin's; counts what it is told."""

    url: str
    caller: str
    chief: str
    told: Counter[str] = field(default_factory=Counter)

    def client(self, key: str) -> httpx.AsyncClient:
        bearer = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=bearer, timeout=60)

    async def send(self, name: str, asked: Awaitable[httpx.Response]) -> None:
        try:
            self.told[f"{name} {(await asked).status_code}"] += 1
        except httpx.HTTPError as error:
            self.told[f"{name} {type(error).__name__}"] += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port)


Attack = Callable[[Attacker, int], Awaitable[None]]


async def schemas(by: Attacker, turn: int) -> None:
    """P1, P2, P12: schemas that end, hold up or write into what compiles them."""
    format_ = {"type": "json_schema", "json_schema": {"name": "x"}}
    format_["json_schema"] = {"name": "x", "schema": SCHEMAS[turn % len(SCHEMAS)]}
    body = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 4,
        "response_format": format_,
    }
    async with by.client(by.caller) as http:
        await by.send("P1", http.post("/v1/chat/completions", json=body))


async def trailers(by: Attacker, turn: int) -> None:
    """P3: trailers for ever, without a key."""
    reader, writer = await by.connect()
    with suppress(OSError):
        writer.write(b"POST /v1/ner HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        for _ in range(64):
            writer.write(b"x-a: " + b"b" * (MIB // 4) + b"\r\n")
            await writer.drain()
    by.told["P3 cut off" if reader.at_eof() or writer.is_closing() else "P3 taken"] += 1
    writer.close()


async def idle_connections(by: Attacker, turn: int) -> None:
    """P4: connections that a bare line end keeps."""
    held = [await by.connect() for _ in range(20)]
    for _, writer in held:
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n\r\n")
    await asyncio.sleep(5)
    for _, writer in held:
        writer.close()
    by.told["P4"] += len(held)


async def many_documents(by: Attacker, turn: int) -> None:
    """P5: a body of a million documents that are none."""
    body = b'{"documents":[' + b",".join([b"{}"] * MIB) + b"]}"
    async with by.client(by.caller) as http:
        await by.send("P5", http.post("/v1/ner", content=body))


async def long_texts(by: Attacker, turn: int) -> None:
    """P6: a text of nearly four megabytes."""
    async with by.client(by.caller) as http:
        body = {"documents": [{"text": "gout " * (3 * MIB // 4)}], "adapter": "attacker"}
        await by.send("P6", http.post("/v1/ner", json=body))


async def bodies_of_reads(by: Attacker, turn: int) -> None:
    """P7: a body of a GET, on an admin route."""
    async with by.client(by.caller) as http:
        asked = http.request("GET", "/admin/v1/adapters", content=_flow(16))
        await by.send("P7", asked)


async def _flow(num_mib: int) -> AsyncIterator[bytes]:
    for _ in range(num_mib):
        yield bytes(MIB)


async def refusals(by: Attacker, turn: int) -> None:
    """P8, P10: admin routes by a caller, and keys and tokens that are none."""
    token = ".".join(_encoded(part) for part in ({"alg": "RS256", "kid": str(turn)}, {"sub": "a"}))
    async with by.client(by.caller) as caller, by.client(f"{token}.AAAA") as stranger:
        for _ in range(20):
            await by.send("P8", caller.get("/admin/v1/keys"))
            await by.send("P10", stranger.get("/v1/models"))


def _encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def bulks(by: Attacker, turn: int) -> None:
    """P15: a bulk of line ends, and one of lines that are wrong."""
    async with by.client(by.chief) as http:
        for body in (b"\n" * MIB, b"?\n" * (MIB // 16)):
            await by.send("P15", http.post("/admin/v1/adapters", content=body))


async def many_answers(by: Attacker, turn: int) -> None:
    """P17: sixteen answers a request, and the list of models."""
    body = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": f"{turn}"}],
        "n": 16,
        "temperature": 1,
        "max_tokens": 32,
    }
    async with by.client(by.caller) as http:
        answers = (by.send("P17", http.post("/v1/chat/completions", json=body)) for _ in range(8))
        lists = (by.send("P17", http.get("/v1/models")) for _ in range(8))
        await asyncio.gather(*answers, *lists)


async def leavers(by: Attacker, turn: int) -> None:
    """Case 47: who asks for much and leaves."""
    body = {"model": "tiny-llama", "prompt": "a", "max_tokens": 400, "stream": True}
    async with by.client(by.caller) as http:
        asked = http.post("/v1/completions", json=body, timeout=0.2)
        await by.send("47", asked)


ATTACKS: tuple[Attack, ...] = (
    schemas,
    trailers,
    idle_connections,
    many_documents,
    long_texts,
    bodies_of_reads,
    refusals,
    bulks,
    many_answers,
    leavers,
)


async def attack(by: Attacker, seconds: float) -> Counter[str]:
    """Run all attacks side by side, each again and again, and return what they were told."""

    async def run(one: Attack, turns: Iterator[int]) -> None:
        for turn in turns:
            try:
                await one(by, turn)
            except OSError as error:
                by.told[f"{one.__name__} {type(error).__name__}"] += 1
            await asyncio.sleep(CALM_SECONDS)

    running = [asyncio.create_task(run(one, itertools.count())) for one in ATTACKS]
    await asyncio.wait(running, timeout=seconds)
    for task in running:
        task.cancel()
    for told in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(told, Exception):
            by.told[f"broken {told!r}"] += 1
    return by.told
