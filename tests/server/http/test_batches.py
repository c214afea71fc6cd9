"""A batch of documents: one that is at fault never fails the others."""

from typing import Any

import httpx
import pytest

from tests.support.serving import Running

CANARY = "Xanthippe-Quux"
GOOD = {"text": "He has gout."}
RELATED = "The patient took metformin and developed lactic acidosis."
HEAD = {"start": 17, "end": 26, "text": "metformin", "type": "Chemical", "confidence": None}
TAIL = {"start": 41, "end": 56, "text": "lactic acidosis", "type": "Disease", "confidence": 0.9}


@pytest.fixture
def north(running: Running) -> httpx.Client:
    return running.client("north")


def ask(north: httpx.Client, documents: list[Any], task: str = "ner", **more: Any) -> Any:
    body = {"documents": documents} | ({"max_tokens": 4} if task == "ner" else {}) | more
    reply = north.post(f"/v1/{task}", json=body)
    assert CANARY not in reply.text
    assert 200 == reply.status_code, reply.text
    return reply.json()["documents"]


def refused(north: httpx.Client, documents: list[Any], task: str = "ner", **more: Any) -> Any:
    reply = north.post(f"/v1/{task}", json={"documents": documents} | more)
    assert CANARY not in reply.text
    assert 400 <= reply.status_code < 500, reply.text
    return reply.json()["error"]


class TestADocumentAtFault:
    @pytest.mark.parametrize(
        ("document", "code", "param", "words"),
        [
            ({"text": " "}, "bad_input", "documents[1].text", "is empty"),
            ({}, "invalid_field", "documents[1].text", "is required"),
            ({"text": 7}, "invalid_field", "documents[1].text", "is not a string"),
            ({"text": "a", CANARY: 1}, "invalid_field", "documents[1].?", "is not a known field"),
            ("just a text", "invalid_field", "documents[1]", "is not an object"),
            ({"text": "ill. " * 400}, "context_length_exceeded", "documents[1]", "context holds"),
            ({"text": "ill. " * 9000}, "context_length_exceeded", "documents[1]", "45,"),
        ],
    )
    def test_has_an_error_and_the_others_their_answers(
        self, north: httpx.Client, document: Any, code: str, param: str, words: str
    ):
        """The error has the code, the field's name and the words of a whole request's error."""
        first, faulty, last = ask(north, [GOOD | {"id": "a"}, document, GOOD | {"id": "c"}])

        assert ["a", "1", "c"] == [first["id"], faulty["id"], last["id"]]
        assert first["error"] is last["error"] is None
        assert isinstance(first["entities"], list)
        assert first["entities"] == last["entities"]
        assert (None, None) == (faulty["reading"], faulty["entities"])
        assert (code, param) == (faulty["error"]["code"], faulty["error"]["param"])
        assert words in faulty["error"]["message"]

    def test_keeps_its_id(self, north: httpx.Client):
        _, faulty = ask(north, [GOOD, {"id": "note-7", "text": None}])

        assert "note-7" == faulty["id"]

    def test_costs_no_tokens(self, north: httpx.Client):
        body = {"documents": [GOOD, {"text": ""}], "max_tokens": 4}
        both = north.post("/v1/ner", json=body).json()["usage"]
        one = north.post("/v1/ner", json=body | {"documents": [GOOD]}).json()["usage"]

        assert one["prompt_tokens"] == both["prompt_tokens"]

    def test_is_the_requests_error_if_there_is_no_other_document(self, north: httpx.Client):
        """A request of which nothing can be answered is refused, with all faults of its form."""
        error = refused(north, [{"text": 7}, {}])

        assert ["documents[0].text", "documents[1].text"] == [f["path"] for f in error["faults"]]
        assert "documents[0].text" == refused(north, [{"text": ""}, {}])["param"]


class TestIds:
    def test_two_that_are_equal_are_refused(self, north: httpx.Client):
        error = refused(north, [GOOD | {"id": "a"}, GOOD, GOOD | {"id": "a"}])

        assert "documents[2].id: is also that of documents[0]" == error["message"]

    def test_a_place_that_is_anothers_id_is_refused(self, north: httpx.Client):
        """A document without an id has its place for one, which must not be ambiguous."""
        error = refused(north, [GOOD | {"id": "1"}, GOOD])

        message = "documents[1].id: is missing, and its place, 1, is the id of documents[0]"
        assert message == error["message"]


class TestOffsets:
    def test_entities_are_taken_as_they_were_given(self, north: httpx.Client):
        """What ``/v1/ner`` answers is a head or a tail of ``/v1/re``, with all its fields."""
        document = {"text": RELATED, "head": HEAD, "tail": TAIL}
        (plain,) = ask(north, [document], "re")
        bare = {"text": RELATED, "head": {"start": 17, "end": 26}, "tail": {"start": 41, "end": 56}}

        assert [plain] == ask(north, [bare], "re")

    def test_the_words_must_be_there(self, north: httpx.Client):
        """Offsets that count another unit are found out by the words that come with them."""
        document = {"text": "😷 " + RELATED, "head": HEAD, "tail": TAIL}
        error = refused(north, [document], "re")

        assert "documents[0].head" == error["param"]
        assert "differs" in error["message"]

    @pytest.mark.parametrize(("unit", "more"), [("codepoint", 2), ("utf16", 3), ("utf8", 5)])
    def test_count_the_unit_that_is_asked_for(self, north: httpx.Client, unit: str, more: int):
        moved = [
            entity | {"start": entity["start"] + more, "end": entity["end"] + more}
            for entity in (HEAD, TAIL)
        ]
        document = {"text": "😷 " + RELATED, "head": moved[0], "tail": moved[1]}
        (answer,) = ask(north, [document], "re", offset_unit=unit)

        assert "clean" == answer["reading"]
        for relation in answer["relations"]:
            assert moved[0]["start"] == relation["head"]["start"]
            assert moved[1]["end"] == relation["tail"]["end"]
        wrong = document | {"head": {"start": 1, "end": 26}}
        if unit != "codepoint":
            error = refused(north, [wrong], "re", offset_unit=unit)
            assert "documents[0].head: 1 is in the middle of a character" == error["message"]

    def test_an_unknown_unit_is_refused(self, north: httpx.Client):
        error = refused(north, [GOOD], offset_unit="bytes")

        assert "offset_unit" == error["param"]
        assert "'codepoint', 'utf16' or 'utf8'" in error["message"]
