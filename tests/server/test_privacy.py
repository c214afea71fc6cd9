"""A note's text stays between the caller, the engine and the reply: a canary is nowhere else."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.process import Process, environment_in, is_ready, started
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


SCHEMA = {"type": "object", "properties": {"a": {"const": NOTE * 8}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "tell", "strict": True, "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "tell"}}


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def drive_vllm(client: httpx.Client) -> Iterator[httpx.Response]:
    """What vLLM's own handlers, parsers and compilers do not take, or do not understand."""
    chat = {"model": "tiny-llama", "messages": [{"role": "user", "content": NOTE}]}
    calling = {"tools": [TOOL], "max_tokens": 60}
    answered = {"id": "1", "type": "function", "function": {"name": CANARY, "arguments": "{}"}}
    bad_schemas = (
        {"$ref": f"#/nowhere/{CANARY}"},
        {"type": "string", "pattern": f"({CANARY}"},
        {"type": CANARY},
    )
    for more in (
        *({"response_format": schema_format(schema)} for schema in bad_schemas),
        {"response_format": schema_format(SCHEMA), "max_tokens": 60},
        *(calling | {"tool_choice": choice} for choice in ("auto", "required", NAMED)),
        calling
        | {"messages": [*chat["messages"], {"role": "assistant", "tool_calls": [answered]}]},
        {"stop": [NOTE], "max_tokens": 4, "user": NOTE, "metadata": {"a": NOTE}},
        {"messages": [{"role": "user", "content": NOTE * 500}]},
    ):
        for stream in ({}, {"stream": True}):
            yield client.post("/v1/chat/completions", json=chat | more | stream)
    for prompt in (NOTE, NOTE * 500, [NOTE, NOTE]):
        body = {"model": "tiny-llama", "prompt": prompt, "max_tokens": 4, "suffix": NOTE}
        yield client.post("/v1/completions", json=body)
    for text in (NOTE, NOTE * 500):
        body = {"model": "tiny-llama", "input": text, "max_output_tokens": 4, "instructions": NOTE}
        yield client.post("/v1/responses", json=body)


def kill_in_mid_stream(server: Process, client: httpx.Client) -> list[str]:
    """
    The events that a stream ends with whose worker is killed by -9: the core that waits for the
    worker fails with all that it holds.
    """
    family = psutil.Process(server.running.pid).children(recursive=True)
    (worker,) = (one for one in family if "Worker" in one.name())
    body = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": NOTE}],
        "response_format": schema_format(SCHEMA),
        "stop": [CANARY * 2],
        "max_tokens": 400,
        "stream": True,
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        worker.kill()
        return list(lines)


class TestACanary:
    def test_is_nowhere_but_in_answers(
        self,
        environment: dict[str, str],
        tmp_path: Path,
        collector: Collector,
    ):
        """
        It is not in the log at level debug, nor in metrics, errors, traces, database or files.
        """
        given = {
            "GALENIC_ADMIN_KEY": "a-secret-that-is-long-enough-to-open",
            "GALENIC_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_TRACES_EXPORTER": "otlp",
        }
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            key = {"authorization": "Bearer a-secret-that-is-long-enough-to-open"}
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

    def test_is_nowhere_in_what_vllm_says(self, environment: dict[str, str], tmp_path: Path):
        """
        No line of vLLM's processes holds it: not for schemas that do not compile, calls that
        its parsers cannot read, and a worker that dies with the note in hand.
        """
        given = {
            "GALENIC_ENGINE": "vllm",
            "GALENIC_ADMIN_KEY": "a-secret-that-is-long-enough-to-open",
            "GALENIC_LOG_LEVEL": "debug",
            "GALENIC_DTYPE": "float32",
            "GALENIC_ENFORCE_EAGER": "true",
            "GALENIC_CONTEXT_TOKENS": "640",
            "GALENIC_NUM_SLOTS": "8",
        }
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            key = {"authorization": "Bearer a-secret-that-is-long-enough-to-open"}
            with httpx.Client(base_url=server.url, headers=key, timeout=100) as client:
                replies = [*drive(client), *drive_vllm(client)]
                last = kill_in_mid_stream(server, client)
                metrics = client.get("/metrics").text
            assert 0 == server.stop()

        errors = [reply for reply in replies if reply.is_error]
        assert [] == [reply.text for reply in errors if CANARY in reply.text]
        assert [] == [reply.headers for reply in replies if CANARY in str(reply.headers)]
        assert 1 == sum('"error"' in line for line in last)
        assert CANARY not in "".join(line for line in last if '"error"' in line)
        assert CANARY not in server.said() + metrics
        assert "engine core died" in server.said()
        files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert [] == [path for path in files if CANARY.encode() in path.read_bytes()]
