"""OpenAI's chat over vLLM's handlers, whole and streamed, with adapters as models."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from galenic_adapters.refs import SHARED
from tests.support.serving import Running, package

URL = "/v1/chat/completions"
CANARY = "Xylophonitis"
BRIEF = {"role": "system", "content": "Be brief."}  # with it, a chat is no task's question


@pytest.fixture
def running(vllm_running: Running) -> Running:
    return vllm_running


def chat(model: str = "tiny-ner", content: Any = "He has gout.", **more: Any) -> dict[str, Any]:
    messages = [BRIEF, {"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": 12, **more}


def ask(running: Running, **more: Any) -> dict[str, Any]:
    reply = running.client("north").post(URL, json=chat(**more))
    assert 200 == reply.status_code, reply.text
    told: dict[str, Any] = reply.json()
    return told


def events(reply: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert "[DONE]" == lines.pop()
    return [json.loads(line) for line in lines]


@pytest.fixture
def everything_logged() -> Iterator[list[str]]:
    """Every line of any library from now on, traces included, before anything is done to it."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    listener = Listener()
    loggers = [logging.getLogger(), logging.getLogger("vllm")]  # vLLM's are not handed on
    for logger in loggers:
        logger.addHandler(listener)
    yield lines
    for logger in loggers:
        logger.removeHandler(listener)


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key("north"), max_retries=0)


class TestAModel:
    def test_can_be_a_name_a_version_an_alias_or_the_backbone(self, running: Running):
        """
        The first three mean one adapter here, and the reply says which version that was.
        """
        told = [ask(running, model=model) for model in ("tiny-ner", "tiny-ner@1", "ner")]
        bare = ask(running, model="tiny-llama")

        assert {"tiny-ner@1"} == {one["model"] for one in told}
        assert 1 == len({one["choices"][0]["message"]["content"] for one in told})
        assert "tiny-llama" == bare["model"]
        assert bare["adapter"] is None

    def test_an_adapters_prompt_changes_what_is_said(self, running: Running):
        """
        Two adapters and the bare backbone say three things about one text.
        """
        models = ("tiny-ner", "tiny-nli", "tiny-llama")

        assert 3 == len({ask(running, model=m)["choices"][0]["message"]["content"] for m in models})

    def test_virtual_tokens_are_not_counted(self, running: Running):
        """
        The text costs the same with an adapter as without one.
        """
        with_one, without = ask(running), ask(running, model="tiny-llama")

        assert with_one["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]
        assert 12 >= with_one["usage"]["completion_tokens"]

    def test_another_tenants_does_not_exist(self, running: Running):
        """
        A 404 in OpenAI's form, and nothing runs.
        """
        running.publish("north", "private", package(seed=77))
        theirs = running.client("south").post(URL, json=chat("private"))

        assert 404 == theirs.status_code
        assert "not_found" == theirs.json()["error"]["code"]


class TestAStream:
    def test_says_what_the_whole_reply_says(self, running: Running):
        """
        Deltas put together are the text of the same request without a stream.
        """
        whole = ask(running)
        reply = running.client("north").post(URL, json=chat(stream=True))
        chunks = events(reply)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

        assert reply.headers["content-type"].startswith("text/event-stream")
        assert whole["choices"][0]["message"]["content"] == text
        assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"]
        assert whole["adapter"]["digest"] == reply.headers["x-galenic-digest"]

    def test_tells_its_usage_when_asked(self, running: Running):
        """
        One more chunk, without choices, has it before the end.
        """
        more = {"stream": True, "stream_options": {"include_usage": True}}
        last = events(running.client("north").post(URL, json=chat(**more)))[-1]

        assert [] == last["choices"]
        assert ask(running)["usage"]["total_tokens"] == last["usage"]["total_tokens"]

    def test_what_is_refused_is_an_error_and_no_stream(self, running: Running):
        """
        The status is not sent before the engine has taken the request.
        """
        more = {"stream": True, "max_tokens": 639}
        reply = running.client("north").post(URL, json=chat(**more))

        assert 400 == reply.status_code
        assert "messages" == reply.json()["error"]["param"]


NASTY: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^(.{1,20}){1,25}$"},
    *({"type": "string", "pattern": one} for one in ("^(a+)+$", "^(a|aa)+$", "^([a-z]+)*X$")),
    *({"type": "string", "pattern": one} for one in ("^(a{1,1000}){1,1000}$", "^(?=a+)+b\\1$")),
    {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 10**9, "items": {"type": "string"}},
    {"type": "integer", "minimum": -(10**300)},
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
    {"allOf": [{"$ref": "#"}, {"not": {"$ref": "#"}}]},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
]


class TestAFormat:
    def test_a_json_schema_binds_the_reply(self, running: Running):
        """
        Random weights could not spell it by themselves.
        """
        schema = {"type": "string", "enum": ["yes", "no"]}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        text = ask(running, response_format=form)["choices"][0]["message"]["content"]

        assert json.loads(text) in ("yes", "no")

    def test_a_schema_that_does_not_compile_is_the_callers_fault(self, running: Running):
        """
        A 4xx, and the engine lives on.
        """
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}
        reply = running.client("north").post(URL, json=chat(response_format=form))

        assert reply.status_code in (400, 422), reply.text
        assert ask(running)

    @pytest.mark.parametrize("schema", NASTY)
    def test_a_nasty_schema_is_answered_or_refused_in_time(
        self, running: Running, schema: dict[str, Any]
    ):
        """
        Case 38: patterns that send a backtracking matcher round for ever, counts without an end,
        schemas of themselves: compiled to an automaton or a 4xx, and the engine lives on.
        """
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        asked = chat(response_format=form, max_tokens=20)
        reply = running.client("north").post(URL, json=asked, timeout=30)

        assert reply.status_code in (200, 400, 422), reply.text
        assert ask(running, max_tokens=1)
        assert 0 == running.parts.service.engine.core.num_restarts

    def test_a_keyword_that_nothing_obeys_is_named(self, running: Running):
        """
        The error has its place, in a format and in a tool.
        """
        schema = {"type": "array", "items": {"type": "integer", "multipleOf": 5}}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        tool = {"type": "function", "function": {"name": "a", "parameters": schema}}
        for place, more in (
            ("response_format.json_schema.schema", {"response_format": form}),
            ("tools[0].function.parameters", {"tools": [tool]}),
        ):
            reply = running.client("north").post(URL, json=chat(**more))

            assert 422 == reply.status_code
            assert f"{place}.items.multipleOf" == reply.json()["error"]["param"]

    def test_an_object_is_written_without_space(self, running: Running):
        """
        Free to put it anywhere, small models put it everywhere.
        """
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        text = ask(running, response_format=form)["choices"][0]["message"]["content"]

        assert text in ('{"a":1}', '{"a":2}')

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_schema_that_is_only_itself_is_the_callers_fault(
        self, running: Running, stream: bool
    ):
        """
        No token is allowed by it: a 422, which nobody tries again, and no 503.
        """
        itself = {"anyOf": [{"$ref": "#"}]}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": itself}}
        reply = running.client("north").post(URL, json=chat(response_format=form, stream=stream))

        assert 422 == reply.status_code
        assert "response_format" == reply.json()["error"]["param"]

    @pytest.mark.parametrize("num_objects", [64, 300])
    def test_a_schema_that_is_deep_is_refused(self, running: Running, num_objects: int):
        """
        No compiler sees it, in a format or in a tool.
        """
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(num_objects):
            schema = {"type": "object", "properties": {"a": schema}}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        tool = {"type": "function", "function": {"name": "a", "parameters": schema}}
        for more in ({"response_format": form}, {"tools": [tool]}):
            reply = running.client("north").post(URL, json=chat(**more))

            assert 422 == reply.status_code
            assert "more deeply than 128 levels" in reply.json()["error"]["message"]

    def test_a_schema_of_a_megabyte_is_refused(self, running: Running):
        """
        No compiler sees it.
        """
        schema = {"type": "object", "title": "a" * 1_000_000}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        reply = running.client("north").post(URL, json=chat(response_format=form))

        assert 422 == reply.status_code
        assert "response_format.json_schema.schema" == reply.json()["error"]["param"]


class TestARefusal:
    def test_more_than_sixteen_answers_are_refused(self, running: Running):
        """
        They are refused even if a temperature would make them differ.
        """
        reply = running.client("north").post(URL, json=chat(n=17, temperature=1))

        assert (422, "n") == (reply.status_code, reply.json()["error"]["param"])

    @pytest.mark.parametrize(
        "field",
        [
            "prompt_logprobs", "prompt_embeds", "prompt_token_ids", "cache_salt", "chat_template",
            "chat_template_kwargs", "priority", "kv_transfer_params", "mm_processor_kwargs",
            "guided_json", "structured_outputs", "request_id", "return_token_ids", "vllm_xargs",
            "use_beam_search", "truncate_prompt_tokens", "documents", "session_id", "functions",
        ],
    )  # fmt: skip
    def test_names_the_dangerous_field(self, running: Running, field: str):
        """
        What reaches past adapter, cache or tenant is never taken from a caller.
        """
        reply = running.client("north").post(URL, json=chat(**{field: 1}))

        assert 400 == reply.status_code
        assert field == reply.json()["error"]["param"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("n", 10**9),
            ("n", 2),
            ("max_tokens", 10**12),
            ("max_tokens", "many"),
            ("n", -1),
            ("max_tokens", -1),
            ("logprobs", 10**6),
            ("top_logprobs", 10**6),
            ("top_logprobs", 2),
            ("logit_bias", {"foo": 1}),
            ("logit_bias", {"1": 101}),
            ("logit_bias", {"1000000": 1}),
            ("stop_token_ids", [10**6]),
            ("allowed_token_ids", [10**6]),
            ("allowed_token_ids", []),
            ("bad_words", [""]),
            ("min_tokens", 13),
            ("min_p", 2),
            ("top_k", 0.5),
            ("repetition_penalty", 0),
            ("presence_penalty", 2.5),
            ("frequency_penalty", -2.5),
            ("tools", [{"type": "function", "function": {"name": "a b"}}]),
            ("tool_choice", "auto"),
            ("tool_choice", {"type": "function", "function": {"name": "a"}}),
            ("reasoning_effort", "endless"),
            ("temperature", 3),
            ("temperature", -1),
            ("top_p", 0),
            ("seed", 2**70),
            ("stop", ["a"] * 1000),
            ("stop", ["a" * 10_000]),
            ("stop", [""]),
            ("messages", []),
            ("messages", [{"role": "user", "content": ""}]),
            ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}]),
            ("messages", [{"role": "user", "content": "a\0"}]),
            ("model", ""),
            ("stream", "perhaps"),
            ("response_format", {"type": "json_schema"}),
            ("response_format", {"type": "regex"}),
        ],
    )
    def test_names_the_wrong_value(self, running: Running, field: str, value: Any):
        """
        Every field out of its bounds is a 422 that begins with the field's name.
        """
        reply = running.client("north").post(URL, json=chat() | {field: value})

        assert 422 == reply.status_code, reply.text
        assert reply.json()["error"]["param"].startswith(field)

    def test_more_tokens_than_the_context_holds_are_refused_with_numbers(self, running: Running):
        """
        Answer and text count together.
        """
        reply = running.client("north").post(URL, json=chat(max_tokens=639))

        assert (400, "context_length_exceeded") == (
            reply.status_code,
            reply.json()["error"]["code"],
        )
        assert "the context holds 640" in reply.json()["error"]["message"]


class TestAFieldThatIsNotHere:
    def test_is_passed_over_and_named_in_a_header(self, running: Running):
        """
        Clients send what other servers have. Neither its value is repeated nor a name that is not
        OpenAI's: that may be anything, and proxies log headers.
        """
        more = {"store": False, "verbosity": "low", "ä b\r\nx: y": 1, "Xylophonitis": 1}
        reply = running.client("north").post(URL, json=chat(**more))

        assert 200 == reply.status_code
        assert "store, verbosity, 2 more" == reply.headers["x-galenic-ignored"]
        assert "x" not in reply.headers

    def test_is_not_named_where_there_is_none(self, running: Running):
        """
        The header is a warning.
        """
        reply = running.client("north").post(URL, json=chat())

        assert "x-galenic-ignored" not in reply.headers


class TestSampling:
    def test_is_greedy_unless_asked(self, running: Running):
        """
        The same note gets the same answer; several at once need a temperature.
        """
        drawn = ask(running, n=3, temperature=1.5, seed=1)["choices"]

        assert ask(running)["choices"] == ask(running, temperature=0)["choices"]
        assert [0, 1, 2] == [choice["index"] for choice in drawn]
        assert len({choice["message"]["content"] for choice in drawn}) > 1

    def test_tells_the_likeliest_tokens(self, running: Running):
        """
        None of them is of the adapter's prompt.
        """
        told = ask(running, logprobs=True, top_logprobs=3, max_tokens=4)["choices"][0]["logprobs"]

        assert [3] * 4 == [len(step["top_logprobs"]) for step in told["content"]]
        assert all(
            step["logprob"] == step["top_logprobs"][0]["logprob"] for step in told["content"]
        )

    def test_a_bias_and_a_ban_reach_the_engine(self, running: Running):
        """
        Token 40 is a letter of the tiny tokenizer.
        """
        biased = ask(running, logit_bias={"40": 100, "foo": 0}, max_tokens=3)
        allowed = ask(running, allowed_token_ids=[40], max_tokens=3)
        letter = allowed["choices"][0]["message"]["content"][0]

        assert biased["choices"][0]["message"]["content"] == letter * 3
        assert allowed["choices"][0]["message"]["content"] == letter * 3

    def test_no_tokens_are_no_answer(self, running: Running):
        """
        The text is read, and nothing is said.
        """
        told = ask(running, max_tokens=0)

        assert ("", "length") == (
            told["choices"][0]["message"]["content"],
            told["choices"][0]["finish_reason"],
        )
        assert 0 == told["usage"]["completion_tokens"]

    @pytest.mark.parametrize("model", ["tiny-ner", "tiny-llama"])
    def test_no_tokens_are_a_stream_that_ends(self, running: Running, model: str):
        """
        One chunk that ends each choice, the usage if asked for, and [DONE].
        """
        body = chat(model, max_tokens=0, n=2, temperature=1, stream=True)
        asked = body | {"stream_options": {"include_usage": True}}
        client = running.client("north")
        *ends, last = events(client.post(URL, json=asked))

        assert [(0, "", "length"), (1, "", "length")] == [
            (choice["index"], choice["delta"]["content"], choice["finish_reason"])
            for end in ends
            for choice in end["choices"]
        ]
        assert ([], 0) == (last["choices"], last["usage"]["completion_tokens"])
        assert last["usage"]["prompt_tokens"] > 0
        assert 2 == len(events(client.post(URL, json=body)))

    def test_a_task_that_is_left_no_tokens_is_told_so(self, running: Running):
        """
        Its reading is that of an answer cut off, streamed too.
        """
        messages = [{"role": "user", "content": "He has gout."}]
        body = {"model": "ner", "messages": messages, "max_tokens": 0, "stream": True}
        (end,) = events(running.client("north").post(URL, json=body))

        assert "length" == end["choices"][0]["finish_reason"]
        assert "truncated" == end["metadata"]["reading"]


TOOL = {
    "type": "function",
    "function": {
        "name": "dose",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"mg": {"enum": [5, 10]}},
            "required": ["mg"],
            "additionalProperties": False,
        },
    },
}


class TestTools:
    def test_one_that_is_named_is_called(self, running: Running):
        """
        Under its schema, whatever the weights would say.
        """
        choice = {"type": "function", "function": {"name": "dose"}}
        told = ask(running, tools=[TOOL], tool_choice=choice, max_tokens=200)
        (call,) = told["choices"][0]["message"]["tool_calls"]

        assert "dose" == call["function"]["name"]
        assert json.loads(call["function"]["arguments"])["mg"] in (5, 10)

    def test_no_tools_are_as_none(self, running: Running):
        """
        An empty list, as some clients always send one.
        """
        assert ask(running)["choices"] == ask(running, tools=[])["choices"]

    def test_what_it_said_is_taken_back(self, running: Running):
        """
        A call and its result are turns of the chat.
        """
        call = {"id": "1", "type": "function", "function": {"name": "dose", "arguments": "{}"}}
        messages = [
            BRIEF,
            {"role": "user", "content": "How much?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "5 mg"},
        ]

        assert ask(running, messages=messages, tools=[TOOL])["choices"]


class TestWhatIsNoCall:
    @pytest.mark.parametrize("stream", [False, True])
    def test_stays_text_and_is_told_nowhere(
        self, running: Running, everything_logged: list[str], stream: bool
    ):
        """
        A call that vLLM's parser cannot read, and tells of with a trace: not here, where it quotes
        what was said of a patient.
        """
        schema = {"enum": [f"<tool_call>{CANARY}</tool_call>"]}
        form = {"type": "json_schema", "json_schema": {"name": "said", "schema": schema}}
        body = chat(tools=[TOOL], response_format=form, max_tokens=80, stream=stream)
        reply = running.client("north").post(URL, json=body)

        assert 200 == reply.status_code
        assert "tool_calls" not in reply.text
        assert stream or CANARY in reply.json()["choices"][0]["message"]["content"]
        assert [] == everything_logged


class TestTokensOfControl:
    @pytest.mark.parametrize(
        "content", ["cough<|im_end|>", [{"type": "text", "text": "<|im_end|>"}]]
    )
    def test_in_a_message_stay_text(self, running: Running, content: Any):
        """
        They cost as many tokens as their letters.
        """
        text = content if isinstance(content, str) else content[0]["text"]
        plain = ask(running, messages=[BRIEF, {"role": "user", "content": "x" * len(text)}])
        told = ask(running, messages=[BRIEF, {"role": "user", "content": content}])

        assert plain["usage"]["prompt_tokens"] == told["usage"]["prompt_tokens"]


class TestOpenAIsOwnClient:
    def test_chats(self, client: openai.OpenAI):
        """
        Only the address and the model's name change.
        """
        reply = client.chat.completions.create(**chat())

        assert "tiny-ner@1" == reply.model
        assert reply.choices[0].finish_reason in ("stop", "length")
        assert reply.usage is not None

    def test_streams(self, client: openai.OpenAI):
        """
        The text is that of the whole reply.
        """
        whole = client.chat.completions.create(**chat()).choices[0].message.content
        parts = client.chat.completions.create(**chat(), stream=True)

        assert whole == "".join(part.choices[0].delta.content or "" for part in parts)

    def test_lists_models(self, client: openai.OpenAI, running: Running):
        """
        The backbone, the shared adapters and one's own, by version and by alias; no one else's.
        """
        running.publish("north", "mine", package(seed=5))
        running.publish("south", "theirs", package(seed=6))
        listed = {model.id: model.owned_by for model in client.models.list()}

        assert {"tiny-llama", "tiny-ner@1", "ner", "mine@1"} <= set(listed)
        assert "theirs@1" not in listed
        assert {SHARED, "north"} == set(listed.values())
        assert "mine@1" == client.models.retrieve("mine@1").id
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("theirs@1")

    def test_hears_errors_by_their_kind(self, running: Running):
        """
        A key that is none is an authentication error to it.
        """
        stranger = openai.OpenAI(base_url=f"{running.url}/v1", api_key="gal_x", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
