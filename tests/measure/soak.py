"""
All attacks in a loop beside three honest tenants: ``python -m tests.measure.soak --minutes 10``.

A server of its own over a tiny backbone. Honest tenants ask their own adapters, first alone, then
beside the attackers, who run in another process. Prints, minute by minute, the memory of all the
server's processes and the honest p99; then p50 and p99 against those of before, engine restarts,
answers that differ from those of before, requests that failed, and what attackers were told.
"""

import argparse
import asyncio
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.measure.attacks import Attacker, attack
from tests.measure.fleet import KIND, environment, replica
from tests.support.serving import package

TENANTS = ("north", "south", "west")
ATTACKER = "attacker"
TEXTS = tuple(f"Note {i}: he has gout, and takes {i} mg of it." for i in range(20))
IDLE_ROUNDS = 3


@dataclass
class Honest:
    """One tenant, its client, and what it was answered before."""

    tenant: str
    http: httpx.AsyncClient
    expected: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    num_wrong: int = 0
    num_failed: int = 0

    async def ask(self, text: str) -> Any:
        began = time.perf_counter()
        body = {"documents": [{"text": text}], "adapter": self.tenant, "max_tokens": 12}
        reply = await self.http.post("/v1/ner", json=body)
        reply.raise_for_status()
        self.seconds.append(time.perf_counter() - began)
        return reply.json()["documents"]

    async def learn(self) -> None:
        for text in TEXTS * IDLE_ROUNDS:
            self.expected[text] = await self.ask(text)

    async def live(self, until: float) -> None:
        for text in iter(lambda: TEXTS[len(self.seconds) % len(TEXTS)], None):
            if time.monotonic() > until:
                return
            try:
                self.num_wrong += await self.ask(text) != self.expected[text]
            except httpx.HTTPError:
                self.num_failed += 1
                await asyncio.sleep(1)


def memory_mb(server: psutil.Process) -> int:
    """The resident memory of the server and all its processes, what they share counted for each."""
    family = [server, *server.children(recursive=True)]
    return sum(one.memory_info().rss for one in family if one.is_running()) >> 20


async def soak(admin: httpx.Client, server: psutil.Process, minutes: float) -> None:
    url = str(admin.base_url)
    honest = [Honest(tenant, _client(url, _enter(admin, tenant))) for tenant in TENANTS]
    await asyncio.gather(*(one.learn() for one in honest))
    idle = _taken(honest)
    _say(f"idle: {_told(idle)}; {memory_mb(server)} MB")
    keys = [_enter(admin, ATTACKER), _key(admin, ATTACKER, "tenant-admin")]
    heard, said = multiprocessing.Pipe(duplex=False)
    attacker = multiprocessing.get_context("spawn").Process(
        target=_attack, args=(url, *keys, minutes * 60, said), daemon=True
    )
    attacker.start()
    until = time.monotonic() + minutes * 60
    living = [asyncio.create_task(one.live(until)) for one in honest]
    every: list[float] = []
    while not all(task.done() for task in living):
        await asyncio.wait(living, timeout=min(60, minutes * 60))
        every += (lately := _taken(honest))
        _say(f"soak: {_told(lately)}; {memory_mb(server)} MB")
    await asyncio.gather(*living, *(one.http.aclose() for one in honest))
    _say(f"all of it: {_told(every)}; p99 {_at(every, 0.99) / _at(idle, 0.99):.1f} times idle's")
    _say(f"engine restarts: {_restarts(admin)}")
    _say(f"wrong answers: {sum(one.num_wrong for one in honest)}")
    _say(f"failed requests: {sum(one.num_failed for one in honest)}")
    told: Counter[str] = await asyncio.to_thread(heard.recv) if heard.poll(90) else Counter()
    _say(f"attackers were told: {dict(sorted(told.items()))}")
    attacker.join(10)


def _attack(url: str, caller: str, chief: str, seconds: float, said: Any) -> None:
    said.send(asyncio.run(attack(Attacker(url, caller, chief), seconds)))


def _enter(admin: httpx.Client, tenant: str) -> str:
    """Publish the tenant's own adapter under its name, and return a key."""
    made = package(seed=len(tenant) + ord(tenant[0]))
    url = f"/admin/v1/adapters/{tenant}?tenant={tenant}"
    admin.put(url, content=made.data, headers=KIND).raise_for_status()
    return _key(admin, tenant, "caller")


def _key(admin: httpx.Client, tenant: str, role: str) -> str:
    made = admin.post("/admin/v1/keys", json={"tenant": tenant, "role": role})
    return str(made.raise_for_status().json()["key"])


def _client(url: str, key: str) -> httpx.AsyncClient:
    bearer = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=bearer, timeout=600)


def _taken(honest: Sequence[Honest]) -> list[float]:
    """Take what honest requests took since the last time."""
    taken = [seconds for one in honest for seconds in one.seconds]
    for one in honest:
        one.seconds.clear()
    return taken


def _told(seconds: Sequence[float]) -> str:
    if not seconds:
        return "no answer"
    return (
        f"{len(seconds)} answers, p50 {statistics.median(seconds):.3f} s,"
        f" p99 {_at(seconds, 0.99):.3f} s"
    )


def _at(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[int(len(seconds) * share)] if seconds else float("nan")


def _restarts(admin: httpx.Client) -> float:
    found = re.search(r"^galenic_engine_restarts_total (\S+)", admin.get("/metrics").text, re.M)
    return float(found[1]) if found else float("nan")


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = environment(folder, asked.engine)
        with replica(given, folder / "home", f"sqlite:///{folder}/galenic.db") as admin:
            (server,) = psutil.Process().children()
            asyncio.run(soak(admin, server, asked.minutes))


if __name__ == "__main__":
    main()
