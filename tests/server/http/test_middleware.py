"""What every request passes: ids, logs, counts, readiness."""

import asyncio
import gc
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from galenic_server import logs
from galenic_server.http.middleware import TracingMiddleware
from galenic_server.metrics import Metrics
from galenic_server.settings import Settings
from tests.support.serving import Running, eventually, make_parts, package, serving

CANARY = "Xylophonitis"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged while the test runs."""
    out = io.StringIO()
    logs.configure("debug", out)
    yield out
    logs.configure("critical")


class TestARequestId:
    def test_is_the_callers_where_it_is_safe(self, running: Running):
        """
        A log here can be matched with a log there by it.
        """
        sent = {"x-request-id": "abc-1.2_3"}
        assert (
            "abc-1.2_3" == running.anyone.get("/health/live", headers=sent).headers["x-request-id"]
        )

    @pytest.mark.parametrize("sent", ["a" * 10_240, "a b", "é", "<script>", ""])
    def test_is_a_new_one_where_it_is_not(self, running: Running, sent: str):
        """
        Long ones and odd ones are not repeated.
        """
        reply = running.anyone.get("/health/live", headers=[(b"x-request-id", sent.encode())])

        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])

    def test_is_a_new_one_where_two_are_sent(self, running: Running):
        """
        Nobody could say which one is meant.
        """
        sent = [("x-request-id", "one"), ("x-request-id", "two")]
        told = running.anyone.get("/health/live", headers=sent).headers.get_list("x-request-id")

        assert 1 == len(told)
        assert told[0] not in ("one", "two")

    def test_may_be_sent_twice_at_once(self, running: Running):
        """
        The engine keeps two requests under one id apart.
        """
        body = {"documents": [{"text": "a"}] * 2, "max_tokens": 8}
        same = {"x-request-id": "same"}
        replies = [running.client("north").post("/v1/ner", json=body, headers=same) for _ in "ab"]

        assert [200, 200] == [reply.status_code for reply in replies]


class TestTheLog:
    def test_holds_no_text_of_anyone(self, running: Running, written: io.StringIO):
        """
        A canary in good requests and in bad ones is in no line; the ids and routes are.
        """
        north = running.client("north")
        good = {"documents": [{"id": CANARY, "text": f"He has {CANARY}."}], "max_tokens": 8}
        north.post("/v1/ner", json=good)
        north.post("/v1/ner", json=good | {"colour": CANARY})
        north.post("/v1/ner", content=CANARY.encode())
        north.post(f"/v1/{CANARY}", json=good)
        north.get(f"/v1/models/{CANARY}")
        chat = {"model": "ner", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}
        north.post("/v1/chat/completions", json=chat | {"stream": True})
        eventually(
            lambda: "/v1/chat/completions" in written.getvalue()
        )  # told after the last event

        assert CANARY not in written.getvalue()
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        assert {"/v1/ner", "/v1/chat/completions"} <= {line.get("route") for line in lines}
        assert all(line["request_id"] for line in lines)

    def test_holds_no_message_of_an_unexpected_error(self, running: Running, written: io.StringIO):
        """
        The reply holds none either: it is a 500 with the id to look for.
        """

        async def broken(*_: Any) -> None:
            raise RuntimeError(CANARY)

        async def ask() -> httpx.Response:
            traced = httpx.ASGITransport(TracingMiddleware(broken, Metrics(), running.parts.trail))
            async with httpx.AsyncClient(transport=traced, base_url="http://a") as client:
                return await client.get("/")

        reply = asyncio.run(ask())

        assert 500 == reply.status_code
        assert reply.headers["x-request-id"] in written.getvalue()
        assert "RuntimeError" in written.getvalue()
        assert CANARY not in reply.text + written.getvalue()

    def test_names_an_unexpected_error_by_type_and_place(self):
        """
        Its message may hold what the caller sent, so it is left out.
        """
        try:
            raise RuntimeError(CANARY)
        except RuntimeError as error:
            told = logs.where(error)

        assert "RuntimeError" == told["error"]
        assert CANARY not in str(told)


class TestOthersLines:
    def line(self, message: str, *values: object, error: Exception | None = None) -> dict[str, Any]:
        info = (type(error), error, None) if error else None
        record = logging.LogRecord("vllm", logging.WARNING, "", 1, message, values, info)
        told: dict[str, Any] = json.loads(logs.Discreet().format(record))
        return told

    def test_are_json_with_their_numbers_and_without_their_texts(self):
        """
        A library that quotes what it was asked quotes nothing here.
        """
        told = self.line("request %s failed after %d tokens in %.1f s", CANARY, 7, 0.5)

        assert "request … failed after 7 tokens in 0.5 s" == told["event"]
        assert ("vllm", "warning") == (told["logger"], told["level"])

    @pytest.mark.parametrize("values", [(CANARY,), (), (1, 2), ({"a": CANARY},)])
    def test_are_told_whatever_is_wrong_with_them(self, values: tuple[Any, ...]):
        """
        A template that does not fit its values stands as it is.
        """
        assert self.line("%d", *values)["event"] in ("%d", "…")

    def test_tell_an_error_by_its_type(self):
        """
        Its message may hold anything.
        """
        told = self.line("failed", error=RuntimeError(CANARY))

        assert ("RuntimeError", "failed") == (told["error"], told["event"])
        assert CANARY not in str(told)

    def test_come_to_the_servers_log(self, running: Running, written: io.StringIO):
        """
        A task that nobody waits for is told too, and not by asyncio.
        """

        async def fail() -> None:
            raise RuntimeError(CANARY)

        loop = running.parts.trail._writing.get_loop()
        loop.call_soon_threadsafe(lambda: loop.create_task(fail()))
        loop.call_soon_threadsafe(gc.collect)
        eventually(lambda: "task failed" in written.getvalue())

        assert "RuntimeError" in written.getvalue()
        assert CANARY not in written.getvalue()


class TestMetrics:
    def test_count_by_task_and_tenant(self, running: Running):
        """
        Requests, seconds, tokens, and the engine's own counters; no text.
        """
        body = {"documents": [{"text": CANARY}], "max_tokens": 8}
        running.client("metered").post("/v1/ner", json=body)
        page = running.anyone.get("/metrics").text

        assert 'galenic_requests_total{route="/v1/ner",status="200",tenant="metered"} 1.0' in page
        assert 'galenic_request_seconds_count{task="ner",tenant="metered"} 1.0' in page
        assert 'galenic_tokens_total{kind="completion",tenant="metered"}' in page
        for name in (
            "resident_adapters",
            "slot_loads_total",
            "prefix_hits_total",
            "prefix_hit_ratio",
        ):
            assert re.search(rf"^galenic_{name} \d", page, re.M)
        assert "galenic_engine_restarts_total 0.0" in page
        assert CANARY not in page

    def test_are_hidden_from_what_a_proxy_hands_on(self, running: Running):
        """
        A proxy on the same machine speaks for the world.
        """
        for name in ("x-forwarded-for", "forwarded", "via"):
            assert 401 == running.anyone.get("/metrics", headers={name: "1.2.3.4"}).status_code
        assert 200 == running.anyone.get("/metrics").status_code

    def test_and_docs_are_hidden_on_an_open_address(self, backbone: str, tmp_path: Path):
        """
        Case 12: there metrics take an admin's key, and docs are not there at all.
        """
        with serving(make_parts(backbone, tmp_path, host="0.0.0.0")) as server:
            reply = server.anyone.get("/metrics")
            assert 401 == reply.status_code
            assert 403 == server.client("north").get("/metrics").status_code
            assert 200 == server.admin.get("/metrics").status_code
            assert 404 == server.anyone.get("/docs").status_code
            assert 404 == server.anyone.get("/openapi.json").status_code


class TestSettings:
    @pytest.mark.parametrize(
        ("host", "is_loopback"),
        [
            ("127.0.0.1", True),
            ("::1", True),
            ("localhost", True),
            ("0.0.0.0", False),
            ("a.b", False),
        ],
    )
    def test_show_docs_and_metrics_on_a_loopback_only(self, host: str, is_loopback: bool):
        """
        Unless told otherwise.
        """
        settings = Settings(host=host)

        assert (is_loopback, is_loopback) == (settings.shows_docs, settings.shows_metrics)
        assert Settings(host=host, docs_public=True, metrics_public=True).shows_metrics


class TestReadiness:
    def test_waits_for_the_engine_while_the_process_lives(self, backbone: str, tmp_path: Path):
        """
        Until the engine has answered, tasks are a 503 with Retry-After, and uploads are taken.
        """
        parts = make_parts(backbone, tmp_path)
        gate = Gate(parts.replica.engine)
        parts.replica.engine = gate
        with serving(parts, ready=False) as server:
            north = server.client("north")
            before = [server.anyone.get(f"/health/{which}") for which in ("live", "ready")]
            asked = north.post("/v1/ner", json={"documents": [{"text": "a"}]})
            server.publish("north", "early", package())
            gate.open()
            body = {"documents": [{"text": "a"}], "adapter": "early", "max_tokens": 8}
            while (reply := north.post("/v1/ner", json=body)).status_code == 503:
                pass

        assert [200, 503] == [one.status_code for one in before]
        assert 503 == asked.status_code
        assert "5" == asked.headers["retry-after"]
        assert 200 == reply.status_code


class Gate:
    """The real engine, whose start waits until the gate is open."""

    def __init__(self, engine):
        import threading

        self._engine = engine
        self._opened = threading.Event()
        self.open = self._opened.set

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def start(self):
        import anyio

        await anyio.to_thread.run_sync(self._opened.wait)
        await self._engine.start()


class TestAProbe:
    @pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
    def test_may_use_head(self, running: Running, path: str):
        """
        The status alone, as load balancers ask for it.
        """
        reply = running.anyone.head(path)

        assert (200, b"") == (reply.status_code, reply.content)


class TestAClientThatLeaves:
    LONG: ClassVar = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 500,
    }

    def leave(self, running: Running, tenant: str, *, stream: bool) -> None:
        """Ask, and be gone: after the first event of a stream, or while the answer is made."""
        key = {"authorization": f"Bearer {running.key(tenant)}"}
        client = httpx.Client(base_url=running.url, headers=key, timeout=30 if stream else 0.2)
        body = self.LONG | {"stream": stream}
        asked = client.stream("POST", "/v1/chat/completions", json=body)
        with client, suppress(httpx.ReadTimeout), asked as reply:
            next(reply.iter_lines())

    @pytest.fixture
    def running(self, vllm_running: Running) -> Running:
        return vllm_running

    def told(self, running: Running, pattern: str) -> list[str]:
        return re.findall(pattern, running.anyone.get("/metrics").text)

    def test_in_mid_stream_stops_the_engine_working_for_it(self, running: Running):
        """
        Long before the 500 tokens that it asked for.
        """
        counted = r'galenic_tokens_total{kind="completion",tenant="leaver"} (\S+)'
        self.leave(running, "leaver", stream=True)
        eventually(lambda: self.told(running, counted))

        assert float(self.told(running, counted)[0]) < 500

    def test_before_its_answer_ends_its_request(self, running: Running):
        """
        The engine's work for it is cancelled, and the count says that the client was gone.
        """
        route = 'route="/v1/chat/completions",status="499",tenant="impatient"'
        self.leave(running, "impatient", stream=False)

        eventually(lambda: self.told(running, f"galenic_requests_total{{{route}}} 1.0"))
