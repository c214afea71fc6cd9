"""The engine's deaths as callers meet them: told once, and one request brings few about."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from galenic_adapters.errors import EngineDied, Quarantined
from galenic_server.admission.quarantine import QUARANTINE_SECONDS, Quarantine
from galenic_server.engine.contract import Work
from tests.support.held import held
from tests.support.serving import Running, eventually

NER = {"documents": [{"text": "A poisonous note."}], "max_tokens": 8}
CHAT = {
    "model": "tiny-llama",
    "messages": [{"role": "user", "content": "poison"}],
    "max_tokens": 8,
}


def work(text_ids: Sequence[int] = (1, 2), **but: Any) -> Work:
    made = {"tenant": "A", "adapter": None, "max_tokens": 8, "how": "greedy"}
    return Work(**made | {"text_ids": text_ids} | but)


def _die() -> None:
    raise EngineDied("once")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestAQuarantine:
    def test_takes_who_was_there_at_two_deaths(self):
        """
        Another text, tenant, adapter or way of asking is another request.
        """
        quarantine = Quarantine(2)
        with pytest.raises(EngineDied), quarantine.watch(work()):
            raise EngineDied("once")
        quarantine.check(work())
        with pytest.raises(Quarantined), quarantine.watch(work()):
            raise EngineDied("twice")
        with pytest.raises(Quarantined):
            quarantine.check(work([1, 2]))

        quarantine.check(work((1, 3)))
        quarantine.check(work(tenant="B"))
        quarantine.check(work(adapter="sha256:0"))
        quarantine.check(work(how="choice"))

    def test_counts_one_death_for_all_who_asked_the_same(self):
        """
        Ten nurses with one note are no poison.
        """
        quarantine = Quarantine(2)
        with ExitStack() as in_flight:
            for _ in range(10):
                in_flight.enter_context(pytest.raises(EngineDied))
                in_flight.enter_context(quarantine.watch(work()))
                in_flight.callback(_die)

        quarantine.check(work())

    def test_lets_go_after_an_hour(self):
        """
        The engine may have been mended.
        """
        clock = Clock()
        quarantine = Quarantine(1, clock)
        with pytest.raises(Quarantined), quarantine.watch(work()):
            raise EngineDied("once")
        clock.now = QUARANTINE_SECONDS + 1

        quarantine.check(work())


class TestADeath:
    @pytest.fixture
    def running(self, vllm_running: Running) -> Running:
        return vllm_running

    def ask(self, running: Running, *bodies: dict[str, Any], tenant: str) -> list[httpx.Response]:
        """Replies to what was in flight when the engine died."""
        replies: list[httpx.Response] = []
        client = running.client(tenant)

        def post(body: dict[str, Any]) -> None:
            path = "/v1/ner" if "documents" in body else "/v1/chat/completions"
            replies.append(client.post(path, json=body))

        with held(running) as engine:
            threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
            for thread in threads:
                thread.start()
            engine.wait_for(len(bodies))
            engine.die()
            for thread in threads:
                thread.join()
        return replies

    @pytest.mark.parametrize("body", [NER, CHAT], ids=["task", "chat"])
    def test_is_told_once_and_not_brought_about_a_third_time(
        self, vllm_running: Running, body: dict[str, Any]
    ):
        """
        The first 503 may be tried again; the second says not to; after that nothing reaches the
        engine, and other requests are answered.
        """
        tenant = f"poison-{len(body)}"
        deaths = [self.ask(vllm_running, body, tenant=tenant)[0] for _ in range(2)]
        path = "/v1/ner" if "documents" in body else "/v1/chat/completions"
        with held(vllm_running) as engine:
            refused = vllm_running.client(tenant).post(path, json=body, timeout=20)
            assert [] == engine.held
        harmless = vllm_running.client(tenant).post(path, json=body | {"max_tokens": 9})
        elsewhere = vllm_running.client("north").post(path, json=body)

        assert [503, 503, 503] == [reply.status_code for reply in (*deaths, refused)]
        assert [None, "false", "false"] == [
            reply.headers.get("x-should-retry") for reply in (*deaths, refused)
        ]
        codes = [reply.json()["error"]["code"] for reply in (*deaths, refused)]
        assert ["unavailable", "quarantined", "quarantined"] == codes
        assert all(reply.headers["retry-after"] for reply in (*deaths, refused))
        assert [200, 200] == [harmless.status_code, elsewhere.status_code]

    def test_in_mid_stream_is_one_event(self, vllm_running: Running):
        """
        The stream ends after it.
        """
        body = CHAT | {"stream": True, "max_tokens": 6}
        with held(vllm_running) as engine:
            threading.Thread(target=lambda: (engine.wait_for(1), engine.die())).start()
            reply = vllm_running.client("streamer").post("/v1/chat/completions", json=body)

        assert 1 == reply.text.count('"error"')
        assert reply.text.endswith("data: [DONE]\n\n")

    def test_leaves_no_place_taken(self, running: Running):
        """
        All who were there are out of the engine's books.
        """
        self.ask(running, *[NER | {"max_tokens": 20 + i} for i in range(5)], tenant="north")

        turns = running.parts.service.engine.gate.turns
        eventually(lambda: (0, 0) == (turns.num_running, turns.num_waiting))
