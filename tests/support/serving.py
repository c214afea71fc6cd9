"""
A whole server over a tiny random backbone, on a real port: real store, real engine, real HTTP.
"""

import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from galenic_adapters.backbone.weights import shape_at
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package import zoo
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.refs import SHARED
from galenic_adapters.tasks.base import TaskName
from galenic_server.engine.contract import EngineConfig
from galenic_server.http.app import make_app
from galenic_server.http.deps import Parts
from galenic_server.http.protocol import Crowd, guarded
from galenic_server.main import begin_chain, join
from galenic_server.registry.store import Store
from galenic_server.settings import Settings
from galenic_server.tenancy.keyring import Keyring
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.tokens import Tokens
from tests.support.tiny_models import WIDTH

POSITIONS = 8
CONTEXT_TOKENS = 640
SECRET = b"the secret of the server in tests"
ADMIN_KEY = "My API Key"  # what the tests of OpenAI's client send
SMALL = {"kv_cache_memory_bytes": 32 << 20, "max_num_seqs": 32}  # for vLLM
BACKBONE = BackboneId(name="tiny-llama", revision="0")


def metaprompt() -> Metaprompt:
    made = torch.Generator().manual_seed(7)
    return Metaprompt(torch.randn(POSITIONS, WIDTH, generator=made))


def package(
    task: str = "ner", labels: tuple[str, ...] = ("Disease",), seed: int = 0, **but: Any
) -> Package:
    """A random adapter for the tiny backbone; *but* changes its manifest."""
    made = torch.Generator().manual_seed(seed)
    factor = Factor(
        torch.randn(POSITIONS, 1, generator=made), torch.randn(1, WIDTH, generator=made)
    )
    facts = {
        "name": f"tiny-{task}",
        "task": TaskName(task),
        "labels": labels,
        "template_version": 1,
        "backbone": BACKBONE,
        "metaprompt": metaprompt().digest,
        "shapes": factor.shapes,
        "dtype": "float32",
        "licence": "Apache-2.0",
        "created": date(2026, 1, 1),
    }
    return Package.write(Manifest.model_validate(facts | but), factor)


@dataclass
class Running:
    """A server that runs, and keys to it by name of tenant."""

    url: str
    parts: Parts
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def key(self, tenant: str, role: Role = Role.CALLER) -> str:
        return self.parts.keys.create(tenant, role)[0]

    def client(self, tenant: str, role: Role = Role.CALLER) -> httpx.Client:
        """One that sends a key of that role, made for the first who asks."""
        name = f"{tenant}/{role}"
        if name not in self.clients:
            bearer = {"authorization": f"Bearer {self.key(tenant, role)}"}
            self.clients[name] = httpx.Client(base_url=self.url, headers=bearer, timeout=120)
        return self.clients[name]

    @property
    def anyone(self) -> httpx.Client:
        """A client without a key."""
        if "" not in self.clients:
            self.clients[""] = httpx.Client(base_url=self.url, timeout=120)
        return self.clients[""]

    @property
    def admin(self) -> httpx.Client:
        return self.client(SHARED, Role.ADMIN)

    def publish(self, tenant: str, name: str, made: Package) -> dict[str, Any]:
        reply = self.admin.put(
            f"/admin/v1/adapters/{name}",
            params={"tenant": tenant},
            content=made.data,
            headers={"content-type": "application/octet-stream"},
        )
        assert reply.status_code == 201, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


def make_parts(backbone: str, home: Path, **settings: Any) -> Parts:
    """The parts that ``main.assemble`` would make, over the tiny backbone."""
    usual = {"engine": "transformers", "shared_running": 64}  # tests hold some still, side by side
    chosen = Settings(home=home, **usual | settings)
    store = Store.open(chosen.database, default_quota=chosen.quota)
    config = EngineConfig(
        backbone,
        b"engine secret",
        dtype="float32",
        num_slots=8,
        places=tuple(chosen.places),
        context_tokens=CONTEXT_TOKENS,
        enforce_eager=True,
        options=SMALL if chosen.engine == "vllm" else {},
    )
    tokens = Tokens(chosen.provider) if chosen.provider else None
    keys = Keyring(
        store.keys,
        store.tenants,
        store.changes,
        secrets=[SECRET],
        admin_keys=[ADMIN_KEY],
        stale_seconds=chosen.stale_seconds,
        life=timedelta(days=chosen.key_days) if chosen.key_days else None,
        tokens=tokens,
    )
    chain = begin_chain(chosen, store.database, SECRET)
    fit = make_fit(
        backbone,
        *zoo.metaprompts_of(BACKBONE, chosen.metaprompt, zoo=chosen.zoo).values(),
        places=config.places,
        max_rank=chosen.max_rank,
    )
    return join(chosen, store, keys, chain, config, fit)


def make_fit(backbone: str, *others: Metaprompt, **more: Any) -> Fit:
    """What the tiny server has, beside other metaprompts, that adapters have to fit."""
    metaprompts = {one.digest: one for one in (metaprompt(), *others)}
    return Fit(BACKBONE, metaprompts, shape_at(Path(backbone)), **more)


@contextmanager
def serving(parts: Parts, *, ready: bool = True) -> Iterator[Running]:
    """Serve *parts* on a free port until the block ends."""
    crowd = Crowd(parts.settings.max_connections, parts.settings.max_connections_of_peer)
    config = uvicorn.Config(
        make_app(parts),
        port=0,
        log_level="error",
        access_log=False,
        http=guarded(parts.settings.patience_seconds, crowd),
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        running = Running(f"http://127.0.0.1:{port}", parts)
        if ready:
            eventually(lambda: running.anyone.get("/health/ready").is_success)
        yield running
        for client in running.clients.values():
            client.close()
    finally:
        server.should_exit = True
        thread.join()
        gc.collect()  # here, where tests forgive vLLM the context of its sockets
        parts.store.close()


def eventually(is_so: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
