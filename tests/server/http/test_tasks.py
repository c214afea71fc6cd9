"""The five tasks over HTTP."""

import pytest

from tests.support.serving import Running

DOCUMENTS = {
    "ner": {"text": "He has gout."},
    "re": {
        "text": "Aspirin causes ulcers.",
        "head": {"start": 0, "end": 7},
        "tail": {"start": 15, "end": 21},
    },
    "qa": {"question": "Which?", "options": {"A": "gout", "B": "flu"}},
    "nli": {"premise": "He has gout.", "hypothesis": "He is ill."},
    "summarize": {"text": "He has gout."},
}
ANSWER = {
    "ner": "entities",
    "re": "relations",
    "qa": "answer",
    "nli": "label",
    "summarize": "summary",
}


class TestEveryTask:
    @pytest.mark.parametrize("task", DOCUMENTS)
    def test_answers_by_its_default_and_names_it(self, running: Running, task: str):
        """
        The task's default answers if no adapter is named; reply and headers name its version.
        """
        body = {"documents": [DOCUMENTS[task] | {"id": "a"}, DOCUMENTS[task]], "max_tokens": 40}
        reply = running.client("north").post(f"/v1/{task}", json=body)

        assert 200 == reply.status_code, reply.text
        told = reply.json()
        assert ["a", "1"] == [one["id"] for one in told["documents"]]
        assert {"name", "version", "digest"} == set(told["adapter"])
        assert told["adapter"]["digest"] == reply.headers["x-galenic-digest"]
        assert "tiny-llama" == told["model"]
        assert all(ANSWER[task] in one and "reading" in one for one in told["documents"])
        assert reply.headers["x-request-id"]
