"""A clinical task asked over chat."""

import json
from typing import Any

import pytest

from tests.support.serving import Running

URL = "/v1/chat/completions"
TEXT = "He has gout and takes allopurinol."
DOCUMENTS: dict[str, dict[str, Any]] = {
    "ner": {"text": TEXT},
    "re": {"text": TEXT},
    "qa": {"question": "What has he?"},
    "nli": {"premise": TEXT, "hypothesis": "He is ill."},
    "summarize": {"text": TEXT},
}
PLAIN = {
    "ner": TEXT,
    "re": TEXT,
    "qa": "What has he?",
    "nli": f"First: {TEXT}\nSecond: He is ill.",
    "summarize": TEXT,
}
PAIR = {
    "text": TEXT,
    "head": {"start": 22, "end": 33},
    "tail": {"start": 7, "end": 11},
}
OPTIONS = {"question": "What has he?", "context": TEXT, "options": {"A": "gout", "B": "flu"}}


@pytest.fixture
def running(vllm_running: Running) -> Running:
    return vllm_running


def model_of(route: str) -> str:
    return "summarization" if route == "summarize" else route


def asked(running: Running, route: str, content: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    body = {"model": model_of(route), "messages": messages, "max_tokens": 40, **more}
    reply = running.client("north").post(URL, json=body)
    assert 200 == reply.status_code, reply.text
    told: dict[str, Any] = reply.json()
    return told


def by_rest(running: Running, route: str, document: dict[str, Any]) -> dict[str, Any]:
    body = {"documents": [document], "max_tokens": 40}
    reply = running.client("north").post(f"/v1/{route}", json=body)
    assert 200 == reply.status_code, reply.text
    told: dict[str, Any] = reply.json()
    return told


class TestAPlainMessage:
    @pytest.mark.parametrize("route", DOCUMENTS)
    def test_gets_the_answer_of_the_tasks_own_route(self, running: Running, route: str):
        """
        The same reading, values, warnings and confidence, in the metadata as JSON; the same tokens.
        """
        chatted = asked(running, route, PLAIN[route])
        answered = by_rest(running, route, DOCUMENTS[route])

        assert answered["documents"][0] == json.loads(chatted["metadata"]["answer"])
        assert answered["documents"][0]["reading"] == chatted["metadata"]["reading"]
        assert answered["adapter"] == chatted["adapter"]
        for count in ("prompt_tokens", "completion_tokens"):
            assert answered["usage"][count] == chatted["usage"][count]

    @pytest.mark.parametrize(
        ("route", "document"), [*DOCUMENTS.items(), ("re", PAIR), ("qa", OPTIONS)]
    )
    def test_may_be_a_document_in_json(
        self, running: Running, route: str, document: dict[str, Any]
    ):
        """
        The document may have options, a head and a tail, or an id, as the route takes it.
        """
        chatted = asked(running, route, json.dumps(document | {"id": "a"}))
        answered = by_rest(running, route, document | {"id": "a"})

        assert answered["documents"][0] == json.loads(chatted["metadata"]["answer"])

    def test_is_streamed_like_any_other(self, running: Running):
        """
        The metadata come with the end of the answer; no chunk is without choices but the usage's.
        """
        whole = asked(running, "nli", PLAIN["nli"])
        body = {"model": "nli", "messages": [{"role": "user", "content": PLAIN["nli"]}]}
        for more in ({}, {"stream_options": {"include_usage": True}}):
            asked_ = body | {"stream": True, "max_tokens": 40} | more
            lines = running.client("north").post(URL, json=asked_).text.strip().split("\n\n")
            events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
            pieces = [one["choices"][0]["delta"].get("content") for one in events if one["choices"]]

            assert "data: [DONE]" == lines[-1]
            (told,) = [one["metadata"] for one in events if "metadata" in one]

            assert whole["metadata"] == told
            assert whole["choices"][0]["message"]["content"] == "".join(filter(None, pieces))
            assert len(more) == sum(not event["choices"] for event in events)

    def test_without_two_texts_is_no_inference(self, running: Running):
        """
        The error says how they are given.
        """
        body = {"model": "nli", "messages": [{"role": "user", "content": TEXT}]}
        error = running.client("north").post(URL, json=body).json()["error"]

        assert "messages[0].content" == error["param"]
        assert "'First: …'" in error["message"]

    @pytest.mark.parametrize(
        "document", [{"text": ""}, {"text": "a", "head": {"start": 0, "end": 9}}, {"text": 7}]
    )
    def test_that_is_a_wrong_document_is_refused(self, running: Running, document: dict[str, Any]):
        """
        The error names the place in the message.
        """
        content = json.dumps(document)
        body = {"model": "re", "messages": [{"role": "user", "content": content}]}
        reply = running.client("north").post(URL, json=body)

        assert 422 == reply.status_code
        assert reply.json()["error"]["param"].startswith("messages[0].content")


class TestAnyOtherChat:
    def test_is_free(self, running: Running):
        """
        A system message makes the conversation the caller's own, and nothing is read from it.
        """
        brief = {"role": "system", "content": "Be brief."}
        messages = [brief, {"role": "user", "content": TEXT}]
        told = asked(running, "ner", TEXT, messages=messages)

        assert "metadata" not in told

    @pytest.mark.parametrize("route", DOCUMENTS)
    def test_keeps_a_json_schema_with_every_adapter(self, running: Running, route: str):
        """
        The caller's format goes before the task's.
        """
        schema = {"type": "string", "enum": ["yes", "no"]}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        told = asked(running, route, PLAIN[route], response_format=form)

        assert json.loads(told["choices"][0]["message"]["content"]) in ("yes", "no")
        assert "metadata" not in told
