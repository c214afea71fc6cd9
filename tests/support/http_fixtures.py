"""One server over a tiny random backbone, for all tests of the HTTP surface."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from galenic_adapters.refs import SHARED
from galenic_server import logs
from tests.support.serving import Running, make_parts, package, serving
from tests.support.tiny_models import tiny_llama

ORIGIN = "https://ehr.example.org"
"""The page that may call the server from a browser."""
SHARED_ADAPTERS = {
    "ner": ("Disease", "Chemical"),
    "re": ("treats", "causes", "none"),
    "qa": (),
    "nli": ("entailment", "contradiction", "neutral"),
    "summarization": (),
}


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def running(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With one shared adapter a task, which is that task's default."""
    with _serving(backbone, tmp_path_factory.mktemp("home"), "transformers") as server:
        yield server


@pytest.fixture(scope="session")
def vllm_running(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same over vLLM, for what only vLLM does: OpenAI's API."""
    with _serving(backbone, tmp_path_factory.mktemp("vllm_home"), "vllm") as server:
        yield server


@contextmanager
def _serving(backbone: str, home: Path, engine: str) -> Iterator[Running]:
    logs.configure("critical")
    parts = make_parts(backbone, home, engine=engine, cors_origins=ORIGIN)
    with serving(parts) as server:
        for seed, (task, labels) in enumerate(SHARED_ADAPTERS.items()):
            server.publish(SHARED, f"tiny-{task}", package(task, labels, seed))
            moved = server.admin.put(
                f"/admin/v1/aliases/{task}", json={"adapter": f"tiny-{task}@1"}
            )
            assert moved.status_code == 200, moved.text
        yield server
