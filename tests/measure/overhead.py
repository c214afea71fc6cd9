"""
What authentication and tenancy add to a request over HTTP: ``python -m tests.measure.overhead``.

Two server processes over one tiny backbone: one as it is; and one with nothing of the kind: every
caller is the same one, names are known for good, no limits, no turns, no audit. Both are asked the
same, in turn. The engine's own work is one token of a text of one letter.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from galenic_server import main as server
from galenic_server.admission.gate import Admission
from galenic_server.answering.service import Service
from galenic_server.engine.contract import AnyTime, Pass, Work
from galenic_server.http import auth, middleware
from galenic_server.registry.names import Resolved
from galenic_server.tenancy.keyring import Caller
from galenic_server.tenancy.keys import Role
from tests.measure.fleet import KIND, environment, replica
from tests.support.serving import package

NUM_ROUNDS = 2000
BODY = {"documents": [{"text": "a"}], "max_tokens": 1, "adapter": "kept"}
TENANT = {"tenant": "north"}


def take_out() -> None:
    """All that keeps tenants apart, from this process."""
    everyone, known = Caller("north", Role.ADMIN, "everyone"), dict[str, Resolved]()

    async def anyone(request: Any) -> Caller:
        return everyone

    @asynccontextmanager
    async def without_limits(request: Any, caller: Caller) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def at_once(self: Admission, work: Work) -> AsyncIterator[Pass]:
        yield AnyTime()

    async def resolve(self: Service, tenant: str, name: str) -> Resolved:
        if name not in known:
            known[name] = self._names.resolve(tenant, name)
        return known[name]

    taken_out: Any = (auth, middleware.Traced, Admission, Service)
    taken_out[0].authenticate, taken_out[0]._within_limits = anyone, without_limits
    taken_out[1]._audit = lambda *_: None
    taken_out[2].enter = at_once
    taken_out[3].resolve = resolve


def seconds(at: httpx.Client, key: dict[str, str]) -> float:
    began = time.perf_counter()
    at.post("/v1/ner", json=BODY, headers=key).raise_for_status()
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        given, url = environment(folder), "sqlite:///{}/galenic.db"
        homes = [folder / name for name in ("as-it-is", "bare")]
        with (
            replica(given, homes[0], url.format(homes[0])) as kept,
            replica(given, homes[1], url.format(homes[1]), "tests.measure.overhead") as bare,
        ):
            for at in (kept, bare):
                data = package().data
                put = at.put("/admin/v1/adapters/kept", params=TENANT, content=data, headers=KIND)
                put.raise_for_status()
            text = kept.post("/admin/v1/keys", json=TENANT).raise_for_status().json()["key"]
            key = {"authorization": f"Bearer {text}"}
            times = np.zeros((2, NUM_ROUNDS))
            draw = random.Random(0)
            for i in range(NUM_ROUNDS):
                for which in draw.sample((0, 1), 2):
                    times[which, i] = seconds((kept, bare)[which], key)
    p50_ms = np.median(times, axis=1) * 1000
    apart_ms = np.median(times[0] - times[1]) * 1000
    sys.stdout.write(
        f"p50 as it is {p50_ms[0]:.3f} ms, bare {p50_ms[1]:.3f} ms; "
        f"difference of p50 {p50_ms[0] - p50_ms[1]:.3f} ms, p50 of {NUM_ROUNDS} differences "
        f"{apart_ms:.3f} ms\n"
    )


if __name__ == "__main__":
    if "GALENIC_PORT" in os.environ:  # as the second server, started by the first call
        take_out()
        sys.exit(server.main())
    main()
