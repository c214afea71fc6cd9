"""
What two replicas over one PostgreSQL keep to: ``python -m tests.measure.fleet [vllm]``.

Two server processes over a tiny backbone, on transformers or on vLLM. How long from an upload's
first byte until both replicas say that it is ready and both answer by it; and, in 10,000 requests
sent after *converged*, how many old answers.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, repeat
from pathlib import Path

import httpx

from galenic_adapters.package.file import write_metaprompt
from tests.support.postgres import Postgres
from tests.support.serving import eventually, free_port, metaprompt, package
from tests.support.tiny_models import CONTEXT_TOKENS, tiny_llama

NUM_UPLOADS, NUM_MOVES, NUM_ASKED = 200, 20, 500
KEY = "the-admin-key-of-all-the-figures-here"
KIND = {"content-type": "application/octet-stream"}
TENANT = {"tenant": "north"}


def environment(folder: Path, engine: str = "transformers") -> dict[str, str]:
    backbone, zoo = folder / "tiny-llama", folder / "zoo" / "tiny-llama"
    tiny_llama(backbone)
    (backbone / "galenic-backbone.json").write_text('{"name": "tiny-llama", "revision": "0"}')
    zoo.mkdir(parents=True)
    (zoo / "metaprompt.safetensors").write_bytes(write_metaprompt(metaprompt()))
    return os.environ | {
        "GALENIC_BACKBONE": str(backbone),
        "GALENIC_ENGINE": engine,
        "GALENIC_DTYPE": "float32",
        "GALENIC_ENFORCE_EAGER": "true",
        "GALENIC_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
        "GALENIC_ZOO": str(zoo.parent),
        "GALENIC_ADMIN_KEY": KEY,
        "GALENIC_SECRET": "the secret of the fleet that is measured",
        "GALENIC_LOG_LEVEL": "error",
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def replica(
    given: dict[str, str], folder: Path, database: str, module: str = "galenic_server"
) -> Iterator[httpx.Client]:
    port = free_port()
    own = {"GALENIC_HOME": str(folder), "GALENIC_PORT": str(port), "GALENIC_DATABASE_URL": database}
    process = subprocess.Popen([sys.executable, "-m", module], env=given | own)
    bearer = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=60) as client:

        def is_ready() -> bool:
            try:
                return client.get("/health/ready").is_success
            except httpx.TransportError:
                return False

        try:
            eventually(is_ready)
            yield client
        finally:
            process.terminate()
            process.wait(60)


def ask(at: httpx.Client, key: str, adapter: str) -> dict[str, object]:
    body = {"documents": [{"text": "a"}], "max_tokens": 1, "adapter": adapter}
    reply = at.post("/v1/ner", json=body, headers={"authorization": f"Bearer {key}"})
    return dict(reply.raise_for_status().json()["adapter"])


def uploads(one: httpx.Client, other: httpx.Client, key: str) -> list[float]:
    seconds = []
    for seed in range(NUM_UPLOADS):
        data, name = package(seed=seed).data, f"upload-{seed}"
        began = time.perf_counter()
        made = one.put(f"/admin/v1/adapters/{name}", params=TENANT, content=data, headers=KIND)
        digest = made.raise_for_status().json()["digest"]
        url = f"/admin/v1/adapters/{name}/1"
        while other.get(url, params=TENANT).json()["state"] != "ready":
            time.sleep(0.01)
        for at in (one, other):
            assert digest == ask(at, key, name)["digest"]
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


def moves(one: httpx.Client, other: httpx.Client, key: str) -> tuple[int, int, list[float]]:
    """Requests after *converged*, how many of them an old version answered, and the waits."""
    url, num_old, waits = "/admin/v1/aliases/live", 0, []
    for i in range(NUM_MOVES):
        version = i % 2 + 1
        began = time.perf_counter()
        headers = {"if-match": "*"} if i else {}
        body = {"adapter": f"moving@{version}"}
        one.put(url, params=TENANT, json=body, headers=headers).raise_for_status()
        while not one.get(url, params=TENANT).json()["converged"]:
            time.sleep(0.01)
        waits.append(time.perf_counter() - began)
        with ThreadPoolExecutor(8) as pool:
            replies = pool.map(ask, cycle((one, other)), [key] * NUM_ASKED, repeat("live"))
            num_old += sum(reply["version"] != version for reply in replies)
    return NUM_MOVES * NUM_ASKED, num_old, sorted(waits)


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = Postgres()
        stack.callback(postgres.close)
        postgres.start()
        given, database = environment(folder, *sys.argv[1:2]), postgres.new_database()
        one, other = (stack.enter_context(replica(given, folder / name, database)) for name in "ab")
        made = one.post("/admin/v1/keys", json=TENANT).raise_for_status()
        key = made.json()["key"]
        seconds = uploads(one, other, key)
        p50, p99 = (seconds[int(len(seconds) * share)] for share in (0.5, 0.99))
        sys.stdout.write(
            f"{len(seconds)} uploads, answered by both: p50 {p50:.3f} p99 {p99:.3f} s\n"
        )
        for seed in (1, 2):
            one.put(
                "/admin/v1/adapters/moving",
                params=TENANT,
                content=package(seed=1000 + seed).data,
                headers=KIND,
            ).raise_for_status()
        num, num_old, waits = moves(one, other, key)
        sys.stdout.write(
            f"{num} requests after {NUM_MOVES} converged moves: {num_old} old answers;"
            f" converged after {waits[len(waits) // 2]:.3f} s (p50), {waits[-1]:.3f} s (most)\n"
        )


if __name__ == "__main__":
    main()
