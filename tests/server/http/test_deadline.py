"""A request ends in time, whatever it waits for."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from galenic_adapters.errors import TimedOut
from galenic_server.http.deadline import Deadline
from tests.support.held import held, set_to
from tests.support.serving import Running

NOTE = {"documents": [{"id": "1", "text": "He has gout."}]}
CHAT = {"model": "tiny-llama", "messages": [{"role": "user", "content": "He has gout."}]}


class TestARequest:
    def test_is_a_503_once_its_time_is_up(self, vllm_running: Running):
        """
        The engine stands still. The caller hears when to try again, and the engine is left alone.
        """
        caller = vllm_running.client("deadline")
        with set_to(vllm_running, request_seconds=1), held(vllm_running) as engine:
            reply = caller.post("/v1/ner", json=NOTE)
            engine.wait_for(0)

        assert (503, "timed_out") == (reply.status_code, reply.json()["error"]["code"])
        assert reply.headers["retry-after"]
        assert 200 == caller.post("/v1/ner", json=NOTE).status_code

    def test_that_is_streamed_ends_with_an_event(self, vllm_running: Running):
        """
        What was said stays said, and the last event holds the error.
        """
        body = CHAT | {"stream": True, "max_tokens": 50}
        with set_to(vllm_running, request_seconds=2), held(vllm_running):
            text = vllm_running.client("deadline").post("/v1/chat/completions", json=body).text

        assert "timed_out" in text
        assert text.endswith("data: [DONE]\n\n")


class TestADeadline:
    def test_ends_parts_that_no_longer_come(self):
        """
        Those that came before are there.
        """

        async def parts() -> AsyncGenerator[int]:
            yield 1
            await asyncio.sleep(600)

        async def scenario() -> int:
            kept = Deadline(0.1).kept_by(parts())
            first = await anext(kept)
            with pytest.raises(TimedOut):
                await anext(kept)
            return first

        assert 1 == asyncio.run(scenario())

    def test_leaves_other_errors_of_time_as_they_are(self):
        """
        A `TimeoutError` from below is not this deadline's.
        """

        async def scenario() -> None:
            async with Deadline(600).kept():
                raise TimeoutError

        with pytest.raises(TimeoutError):
            asyncio.run(scenario())
