"""Whatever is sent, the answer is not a 5xx, and it has the one form of error."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.serving import Running

FIELDS = (
    "documents",
    "adapter",
    "max_tokens",
    "id",
    "text",
    "question",
    "context",
    "options",
    "premise",
    "hypothesis",
    "head",
    "tail",
    "start",
    "end",
    "model",
    "messages",
    "role",
    "content",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "stream",
    "stream_options",
    "logprobs",
    "response_format",
    "type",
    "json_schema",
    "schema",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "metadata",
    "tools",
    "expect",
    "tenant",
    "name",
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(st.characters(), max_size=20),
    st.sampled_from(["tiny-ner", "tiny-ner@1", "user", "a b", "json_schema", "\ud800", "\0"]),
)
NAMES = st.one_of(st.sampled_from(FIELDS), st.text(st.characters(), max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=6)),
    max_leaves=12,
)
TRIES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = {"content-type": "application/json"}


def post(running: Running, path: str, body: Any) -> int:
    """The status; what is refused is refused in the one form."""
    content = json.dumps(body)  # spells NaN and lone surrogates too
    reply = running.client("fuzzer").request("POST", path, content=content, headers=JSON)
    assert reply.status_code < 500, (reply.status_code, reply.text, body)
    if reply.is_error:
        assert {"message", "type", "param", "code"} <= set(reply.json()["error"])
    return reply.status_code


class TestAnyBody:
    @pytest.mark.parametrize(
        "path", ["/v1/ner", "/v1/re", "/v1/qa", "/v1/nli", "/v1/summarize", "/v1/chat/completions"]
    )
    @TRIES
    @given(body=VALUES)
    def test_of_any_shape_is_answered_or_refused(self, vllm_running: Running, path: str, body: Any):
        """
        Fields by their right names hold anything at all.
        """
        post(vllm_running, path, body)

    @TRIES
    @given(text=st.text(st.characters(), min_size=1, max_size=60))
    def test_of_any_text_gets_spans_that_stand_in_it(self, running: Running, text: str):
        """
        Any Unicode at all: offsets are code points, and text[start:end] is what is said.
        """
        body = {"documents": [{"text": text}], "max_tokens": 24}
        reply = running.client("fuzzer").post("/v1/ner", content=json.dumps(body), headers=JSON)

        assert reply.status_code in (200, 422), reply.text
        if reply.is_success:
            for entity in reply.json()["documents"][0]["entities"] or ():
                assert text[entity["start"] : entity["end"]] == entity["text"]
