"""OpenAI's chat from end to end."""

import json
from typing import Any

import pytest

from galenic_client.types import Message
from tests.support.real_server import RealServer

NOTE = (
    "62-year-old man with atrial fibrillation on 5 mg of warfarin daily, INR 3.4 today. "
    "He reports two episodes of epistaxis, no melena, no headache. BP 142/88, afebrile."
)
CHAT: list[Message] = [{"role": "user", "content": NOTE}]


class TestAStream:
    @pytest.mark.parametrize("model", ["summarization", "SmolLM2-135M-Instruct"])
    def test_says_what_the_whole_reply_says(self, server: RealServer, model: str):
        """
        Both agree, with an adapter and bare. (One more asks before, so both find its prefix.)
        """
        with server.client() as client:
            client.chat(model, CHAT, max_tokens=24)
            whole = client.chat(model, CHAT, max_tokens=24)
            pieces = list(client.stream(model, CHAT, max_tokens=24))

        assert whole.text == "".join(pieces)
        assert len(pieces) > 1
        assert (whole.adapter is None) == (model == "SmolLM2-135M-Instruct")

    def test_ends_with_the_same_finish_and_usage(self, server: RealServer):
        """
        It ends with [DONE] too, as OpenAI's clients expect.
        """
        body = {"model": "summarization", "messages": CHAT, "max_tokens": 5}
        streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
        with server.http() as http:
            whole = http.post("/v1/chat/completions", json=body).json()
            lines = http.post("/v1/chat/completions", json=streamed).text.strip().split("\n\n")
        events: list[dict[str, Any]] = [json.loads(line[6:]) for line in lines[:-1]]
        ends = [choice["finish_reason"] for event in events for choice in event["choices"]]

        assert "data: [DONE]" == lines[-1]
        assert [whole["choices"][0]["finish_reason"]] == [end for end in ends if end]
        assert _counts(whole["usage"]) == _counts(events[-1]["usage"])
        assert {whole["model"]} == {event["model"] for event in events}


def _counts(usage: dict[str, Any]) -> tuple[int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"]
