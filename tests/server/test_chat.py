"""OpenAI's chat, whole and streamed, with adapters as models."""

import json
from typing import Any

import httpx
import openai
import pytest

from galenic_adapters.refs import SHARED
from tests.support.serving import Running, package

URL = "/v1/chat/completions"


def chat(model: str = "tiny-ner", content: Any = "He has gout.", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
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
        As one more chunk without choices, before the end.
        """
        more = {"stream": True, "stream_options": {"include_usage": True}}
        last = events(running.client("north").post(URL, json=chat(**more)))[-1]

        assert [] == last["choices"]
        assert ask(running)["usage"]["total_tokens"] == last["usage"]["total_tokens"]

    def test_what_is_refused_is_an_error_and_no_stream(self, running: Running):
        """
        The status is not sent before the engine has taken the request.
        """
        more = {"stream": True, "presence_penalty": 1.0}
        reply = running.client("north").post(URL, json=chat(**more))

        assert 400 == reply.status_code
        assert "presence_penalty" == reply.json()["error"]["param"]


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

    def test_a_schema_of_a_megabyte_is_refused(self, running: Running):
        """
        Before any compiler sees it.
        """
        schema = {"type": "object", "title": "a" * 1_000_000}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        reply = running.client("north").post(URL, json=chat(response_format=form))

        assert 422 == reply.status_code
        assert "response_format.json_schema.schema" == reply.json()["error"]["param"]


class TestARefusal:
    @pytest.mark.parametrize(
        "field",
        [
            "prompt_logprobs", "prompt_embeds", "prompt_token_ids", "cache_salt", "chat_template",
            "priority", "kv_transfer_params", "mm_processor_kwargs", "echo", "tools", "top_k",
            "logit_bias", "guided_json", "repetition_penalty",
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
            ("max_tokens", 0),
            ("max_tokens", "many"),
            ("logprobs", True),
            ("temperature", 3),
            ("temperature", -1),
            ("top_p", 0),
            ("seed", 2**70),
            ("stop", ["a"] * 1000),
            ("stop", ["a" * 10_000]),
            ("stop", [""]),
            ("messages", []),
            ("messages", [{"role": "tool", "content": "a"}]),
            ("messages", [{"role": "user", "content": ""}]),
            ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}]),
            ("messages", [{"role": "user", "content": "a\0"}]),
            ("model", ""),
            ("stream", "perhaps"),
            ("stream_options", {"colour": 1}),
            ("response_format", {"type": "json_schema"}),
            ("response_format", {"type": "regex"}),
            ("colour", 1),
        ],
    )
    def test_names_the_wrong_value(self, running: Running, field: str, value: Any):
        """
        Every field out of its bounds is a 422 that begins with the field's name.
        """
        reply = running.client("north").post(URL, json=chat() | {field: value})

        assert 422 == reply.status_code, reply.text
        assert reply.json()["error"]["param"].startswith(field)

    @pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
    def test_penalties_are_refused_beside_an_adapter(self, running: Running, field: str):
        """
        They index the vocabulary by prompt ids, and virtual ids lie past it.
        """
        reply = running.client("north").post(URL, json=chat(**{field: 0.5}))

        assert 400 == reply.status_code
        assert field == reply.json()["error"]["param"]

    def test_more_tokens_than_the_context_holds_are_refused_with_numbers(self, running: Running):
        """
        Answer and text count together.
        """
        reply = running.client("north").post(URL, json=chat(max_tokens=639))

        assert 413 == reply.status_code
        assert "the context holds 640" in reply.json()["error"]["message"]


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
        And the text is that of the whole reply.
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
