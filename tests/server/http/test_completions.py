"""OpenAI's completions and Responses over vLLM's handlers."""

import json
from typing import Any

import openai
import pytest

from tests.support.serving import Running

URL = "/v1/completions"
NOTE = "He has gout."


@pytest.fixture
def running(vllm_running: Running) -> Running:
    return vllm_running


def ask(running: Running, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny-ner", "prompt": NOTE, "max_tokens": 6, **more}
    reply = running.client("north").post(URL, json=body)
    assert 200 == reply.status_code, reply.text
    told: dict[str, Any] = reply.json()
    return told


class TestACompletion:
    def test_goes_on_from_one_prompt_or_several(self, running: Running):
        """
        Prompts are texts or ids of the vocabulary, each answered by its index.
        """
        ids = running.parts.service.engine.tokenizer.encode(NOTE)
        alone = ask(running)["choices"][0]["text"]
        several = ask(running, prompt=[NOTE, "She has"])["choices"]

        assert alone == ask(running, prompt=ids)["choices"][0]["text"]
        assert [0, 1] == [choice["index"] for choice in several]
        assert alone == several[0]["text"]

    def test_counts_the_text_alone(self, running: Running):
        """
        An adapter's prompt costs nothing, in one prompt or in several.
        """
        bare = ask(running, model="tiny-llama", prompt=[NOTE, NOTE])["usage"]

        assert len(NOTE) * 2 == bare["prompt_tokens"]
        assert bare["prompt_tokens"] == ask(running, prompt=[NOTE, NOTE])["usage"]["prompt_tokens"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_echoes_the_text_alone(self, running: Running, stream: bool):
        """
        Nothing of the adapter is repeated.
        """
        body = {"model": "tiny-ner", "prompt": NOTE, "max_tokens": 3, "echo": True}
        reply = running.client("north").post(URL, json=body | {"stream": stream}).text
        pieces = [reply] if not stream else [line[6:] for line in reply.split("\n\n")[:-2]]

        text = "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces)
        assert text.startswith(NOTE)
        assert len(text) <= len(NOTE) + 3

    @pytest.mark.parametrize(("echo", "text"), [(False, ""), (True, NOTE)])
    def test_of_no_tokens_is_a_stream_that_ends(self, running: Running, echo: bool, text: str):
        """
        One chunk ends it, with the text if that is to be echoed, before the usage.
        """
        body = {"model": "tiny-ner", "prompt": NOTE, "max_tokens": 0, "echo": echo, "stream": True}
        asked = body | {"stream_options": {"include_usage": True}}
        reply = running.client("north").post(URL, json=asked).text
        end, last, done = [line[6:] for line in reply.split("\n\n") if line]
        (choice,) = json.loads(end)["choices"]

        assert (text, "length", "[DONE]") == (choice["text"], choice["finish_reason"], done)
        assert (len(NOTE), 0) == (
            json.loads(last)["usage"]["prompt_tokens"],
            json.loads(last)["usage"]["completion_tokens"],
        )

    def test_tells_how_likely_the_text_was(self, running: Running):
        """
        Each token of the text but the first has a probability, given the adapter's prompt and the
        tokens before it.
        """
        told = ask(running, echo=True, logprobs=1, max_tokens=2)["choices"][0]["logprobs"]
        bare = ask(running, model="tiny-llama", echo=True, logprobs=1, max_tokens=2)["choices"][0]

        assert [*NOTE] == told["tokens"][: len(NOTE)]
        assert len(NOTE) + 2 == len(told["token_logprobs"])
        for first, *others in (told["token_logprobs"], bare["logprobs"]["token_logprobs"]):
            assert first is None
            assert all(logprob < 0 for logprob in others)
        assert told["token_logprobs"][1:] != bare["logprobs"]["token_logprobs"][1:]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("prompt", [300, 10**6]),
            ("prompt", [[5], [10**6]]),
            ("prompt", [-1]),
            ("prompt", ""),
            ("prompt", []),
            ("prompt", [""]),
            ("prompt", "a\0"),
            ("logprobs", 10**6),
            ("max_tokens", 10**12),
            ("n", 10**9),
            ("echo", "perhaps"),
        ],
    )
    def test_a_wrong_field_is_named(self, running: Running, field: str, value: Any):
        """
        Ids of other adapters' prompts above all.
        """
        body = {"model": "tiny-ner", "prompt": NOTE} | {field: value}
        reply = running.client("north").post(URL, json=body)

        assert 422 == reply.status_code, reply.text
        assert reply.json()["error"]["param"].startswith(field)


class TestResponses:
    @pytest.fixture
    def client(self, running: Running) -> openai.OpenAI:
        key = running.key("north")
        return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)

    def test_answer_whole_and_in_events(self, client: openai.OpenAI):
        """
        The deltas are the text; the adapter's prompt is not counted.
        """
        asked: Any = {"model": "tiny-summarization", "input": NOTE, "max_output_tokens": 12}
        whole = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
        text = "".join(one.delta for one in events if one.type == "response.output_text.delta")

        assert "tiny-summarization@1" == whole.model
        assert whole.output_text == text
        assert 12 == whole.usage.output_tokens
        assert whole.usage.input_tokens < 100

    def test_keep_a_schema(self, client: openai.OpenAI):
        """
        The schema is the caller's.
        """
        schema = {"type": "string", "enum": ["yes", "no"]}
        form: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
        told = client.responses.create(model="tiny-ner", input=NOTE, text=form)

        assert json.loads(told.output_text) in ("yes", "no")

    @pytest.mark.parametrize("stream", [False, True])
    def test_are_refused_before_they_begin(self, running: Running, stream: bool):
        """
        No event is sent for what does not fit.
        """
        body = {"model": "tiny-ner", "input": NOTE, "max_output_tokens": 640, "stream": stream}
        reply = running.client("north").post("/v1/responses", json=body)

        assert 400 == reply.status_code, reply.text
        assert "input" == reply.json()["error"]["param"]

    @pytest.mark.parametrize("field", ["previous_response_id", "conversation", "background"])
    def test_refer_to_nothing_stored(self, running: Running, field: str):
        """
        Nothing is: no note stays on the server.
        """
        body = {"model": "tiny-ner", "input": NOTE, field: "a"}
        reply = running.client("north").post("/v1/responses", json=body)

        assert 400 == reply.status_code
        assert field == reply.json()["error"]["param"]
