"""A note's text stays between the caller, the engine and the reply: a canary is nowhere else."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.process import environment_in, is_ready, started
from tests.support.serving import eventually

CANARY = "Xylophonitis"
NOTE = f"The patient has {CANARY}."
SOUND: dict[str, dict[str, Any]] = {
    "ner": {"text": NOTE, "id": CANARY},
    "re": {"text": NOTE},
    "qa": {"question": NOTE, "context": NOTE, "options": {"A": CANARY, "B": "gout"}},
    "nli": {"premise": NOTE, "hypothesis": NOTE},
    "summarize": {"text": NOTE},
}
"""A document of every task; where the zoo has no adapter for it, that is an error as well."""


class Collector:
    """Listens where traces would be sent."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._is_over = threading.Event()
        self.num_connections = 0
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            try:
                self._socket.accept()[0].close()
            except TimeoutError:
                continue
            self.num_connections += 1

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_in(tmp_path)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def drive(client: httpx.Client) -> Iterator[httpx.Response]:
    """Good requests and every kind of bad one, each holding the canary; yields the errors."""
    for task, document in SOUND.items():
        body = {"documents": [document], "max_tokens": 8}
        yield client.post(f"/v1/{task}", json=body)
        yield client.post(f"/v1/{task}", json=body, headers={"x-request-id": f"{CANARY} {NOTE}"})
        for wrong in (
            {**body, CANARY: NOTE},
            {**body, "adapter": NOTE},
            {**body, "max_tokens": NOTE},
            {"documents": [{**document, CANARY: 1}]},
            {"documents": NOTE},
            {"documents": [NOTE]},
            {"documents": [document] * 10_000},
            {"documents": [dict.fromkeys(document, NOTE * 5000)]},
            {"documents": [{**document, "text": f"{NOTE} \0"}]},
        ):
            yield client.post(f"/v1/{task}", json=wrong)
        yield client.post(f"/v1/{task}", content=json.dumps(body)[:-3])
        yield client.post(f"/v1/{task}", content=NOTE, headers={"content-type": "text/plain"})
    chat = {"model": "ner", "messages": [{"role": "user", "content": NOTE}], "max_tokens": 4}
    for more in ({}, {"stream": True}, {"model": NOTE}, {"tools": NOTE}, {CANARY: NOTE}):
        yield client.post("/v1/chat/completions", json=chat | more)
    for path in (f"/v1/models/{NOTE}", f"/v1/{NOTE}", f"/admin/v1/adapters/{NOTE}"):
        yield client.get(path)
    yield client.get("/admin/v1/adapters", params={"after": NOTE, CANARY: NOTE})
    yield client.put(f"/admin/v1/aliases/{NOTE}", json={"adapter": NOTE})
    yield client.put("/admin/v1/adapters/a", content=NOTE)
    yield client.get("/v1/models", headers={"authorization": f"Bearer {NOTE}"})


class TestACanary:
    def test_is_nowhere_but_in_answers(
        self,
        environment: dict[str, str],
        tmp_path: Path,
        collector: Collector,
    ):
        """
        Not in the log at its most talkative, nor in metrics, errors, traces, database or files.
        """
        given = {
            "GALENIC_ADMIN_KEY": "a-long-enough-secret",
            "GALENIC_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_TRACES_EXPORTER": "otlp",
        }
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            key = {"authorization": "Bearer a-long-enough-secret"}
            with httpx.Client(base_url=server.url, headers=key, timeout=100) as client:
                replies = list(drive(client))
                metrics = client.get("/metrics").text
            assert 0 == server.stop()

        errors = [reply for reply in replies if reply.is_error]
        assert len(errors) > 60
        assert any(reply.is_success for reply in replies)
        assert [] == [reply.text for reply in errors if CANARY in reply.text]
        assert [] == [reply.headers for reply in replies if CANARY in str(reply.headers)]
        assert CANARY not in server.said()
        assert CANARY not in metrics
        assert 0 == collector.num_connections
        assert len(server.said().splitlines()) > len(replies)
        files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert {"galenic.db", "secret"} <= {path.name for path in files}
        assert [] == [path for path in files if CANARY.encode() in path.read_bytes()]
