"""Any value in any field of sampling: answered, or refused by that field's name."""

import json
import os
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.serving import Running

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
"""Of each of the two routes; 5,000 were run once."""

BASE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "tiny-ner",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "He has gout."},
        ],
    },
    "/v1/completions": {"model": "tiny-nli", "prompt": "He has gout."},
}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)
IDS = st.lists(st.integers(-1, 300), max_size=5)
STOPS = st.one_of(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=20))
SCHEMAS = st.sampled_from(
    [{}, {"type": "object"}, {"type": "nothing"}, {"enum": ["a"]}, {"$ref": "#"}, {"pattern": "("}]
)
SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.one_of(st.integers(-1, 4), st.sampled_from([10**4, 10**9])),
    "temperature": st.floats(-1, 3),
    "top_p": st.floats(-0.5, 1.5),
    "n": st.integers(-1, 4),
    "seed": st.integers(-(2**65), 2**65),
    "stop": STOPS,
    "presence_penalty": st.floats(-3, 3),
    "frequency_penalty": st.floats(-3, 3),
    "repetition_penalty": st.floats(-1, 12),
    "logit_bias": st.dictionaries(
        st.one_of(st.integers(-2, 300).map(str), st.text(max_size=3)),
        st.floats(-110, 110),
        max_size=4,
    ),
    "top_k": st.integers(-2, 400),
    "min_p": st.floats(-0.5, 1.5),
    "min_tokens": st.integers(-1, 6),
    "stop_token_ids": IDS,
    "allowed_token_ids": IDS,
    "bad_words": st.lists(st.text(max_size=4), max_size=4),
    "ignore_eos": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "include_stop_str_in_output": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "user": st.text(max_size=9),
    "response_format": st.one_of(
        st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}]),
        SCHEMAS.map(lambda it: {"type": "json_schema", "json_schema": {"name": "a", "schema": it}}),
    ),
}
OF_CHAT = {
    "max_completion_tokens": st.integers(-1, 4),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(-1, 25),
    "parallel_tool_calls": st.booleans(),
    "reasoning_effort": st.sampled_from(["none", "low", "high", "endless"]),
}
OF_COMPLETIONS = {"logprobs": st.integers(-1, 25), "echo": st.booleans()}
FIELDS = {
    "/v1/chat/completions": SAMPLING | OF_CHAT,
    "/v1/completions": SAMPLING | OF_COMPLETIONS,
}
JSON = {"content-type": "application/json"}


def any_of(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """A few fields at a time, each of its own kind, or of any."""
    fields = {name: st.one_of(kind, kind, ANYTHING) for name, kind in FIELDS[path].items()}
    names = st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True)
    return names.flatmap(lambda few: st.fixed_dictionaries({name: fields[name] for name in few}))


@pytest.fixture(scope="module")
def north(vllm_running: Running) -> httpx.Client:
    return vllm_running.client("north")


class TestAnySampling:
    @pytest.mark.parametrize("path", BASE)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_is_answered_or_refused_by_name(
        self, north: httpx.Client, path: str, data: st.DataObject
    ):
        """
        No 5xx; an error names a field that was sent, or the text that then has no room.
        """
        sent = data.draw(any_of(path))
        body = BASE[path] | {"max_tokens": 3} | sent
        reply = north.post(path, content=json.dumps(body), headers=JSON)

        assert reply.status_code < 500, (reply.text, sent)
        if reply.is_error:
            param = reply.json()["error"]["param"]
            named = (param or "").partition(".")[0].partition("[")[0]
            assert named in {*sent, "messages", "prompt"}, (reply.text, sent)

    def test_leaves_the_engine_alive(self, north: httpx.Client, vllm_running: Running):
        """
        The engine is still on its first core after all that.
        """
        assert north.post("/v1/completions", json=BASE["/v1/completions"]).is_success
        assert "galenic_engine_restarts_total 0.0" in vllm_running.anyone.get("/metrics").text
