"""Every wrong request has one clear error, and the server lives on."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from galenic_adapters.package.manifest import BackboneId
from galenic_server.schemas.tasks import Body, Real
from tests.support.serving import Running, package

CANARY = "Zebrafinch"


@pytest.fixture
def north(running: Running) -> Iterator[httpx.Client]:
    yield running.client("north")
    assert running.anyone.get("/health/ready").is_success


def ner(text: Any, **more: Any) -> dict[str, Any]:
    return {"documents": [{"id": "1", "text": text}], **more}


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert status == reply.status_code, reply.text
    assert CANARY not in reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    return error


class TestATextThatIsWrong:
    @pytest.mark.parametrize("text", ["", "   ", "\n\t"])
    def test_an_empty_one_is_named_by_its_place(self, north: httpx.Client, text: str):
        """
        The error of the only document is that of the request.
        """
        error = error_of(north.post("/v1/ner", json=ner(text)), 422)

        assert "documents[0].text" == error["param"]
        assert "is empty" in error["message"]

    def test_one_of_200000_characters_is_refused_with_both_numbers(self, north: httpx.Client):
        """
        It is never cut off, nor made tokens of: the error says what it has and the context holds.
        """
        error = error_of(north.post("/v1/ner", json=ner(f"{CANARY} ill. " * 12_500)), 400)

        assert "context_length_exceeded" == error["code"]
        assert "documents[0]" == error["param"]
        assert "has 200," in error["message"]
        assert "characters; the context holds 640 tokens" in error["message"]

    def test_one_just_longer_than_the_context_is_refused(self, north: httpx.Client):
        """
        The room for the answer counts too.
        """
        error = error_of(north.post("/v1/ner", json=ner("a" * 300)), 400)

        assert "256 for the answer); the context holds 640" in error["message"]

    def test_a_body_larger_than_the_server_takes_is_refused(self, north: httpx.Client):
        """
        Whether its length is said or not.
        """
        body = b'{"documents": [{"text": "' + b"a" * (5 << 20) + b'"}]}'
        said = north.post("/v1/ner", content=body, headers={"content-type": "application/json"})
        sent = north.post(
            "/v1/ner",
            content=(body[i : i + 65536] for i in range(0, len(body), 65536)),
            headers={"content-type": "application/json"},
        )

        assert "body_too_large" == error_of(said, 413)["code"]
        assert "body_too_large" == error_of(sent, 413)["code"]

    def test_a_body_in_gzip_is_read(self, north: httpx.Client):
        """
        Some clients send it; a body that is no gzip, or not whole, is refused.
        """
        plain = json.dumps(ner("He has gout.")).encode()
        packed = gzip.compress(plain)
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        good = north.post("/v1/ner", content=packed, headers=headers)

        assert 200 == good.status_code, good.text
        for bad in (plain, packed[:-9], packed + packed):
            refused = north.post("/v1/ner", content=bad, headers=headers)
            assert "gzip" in error_of(refused, 422)["message"]

    def test_a_body_that_is_large_inside_is_refused(self, north: httpx.Client):
        """
        A few kilobytes may hold a gigabyte; no more of it is unpacked than may be sent.
        """
        packed = gzip.compress(b" " * (64 << 20))
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        refused = north.post("/v1/ner", content=packed, headers=headers)

        assert "body_too_large" == error_of(refused, 413)["code"]

    def test_a_body_in_another_coding_is_a_415(self, north: httpx.Client):
        """
        It is told which ones are read.
        """
        headers = {"content-type": "application/json", "content-encoding": "br"}
        refused = north.post("/v1/ner", content=b"{}", headers=headers)

        assert "content-encoding" in error_of(refused, 415)["message"]

    @pytest.mark.parametrize("path", ["/admin/v1/adapters", "/admin/v1/tenants/a/archive"])
    def test_a_body_of_a_get_is_refused_unread(self, running: Running, path: str):
        """
        It is refused with and without a stated length, even if another method takes gigabytes.
        """
        key = {"authorization": f"Bearer {running.key('north')}"}
        for content in (b"a", iter([b"a" * 100])):
            reply = running.anyone.request("GET", path, content=content, headers=key)

            assert reply.status_code in (403, 413)

    @pytest.mark.parametrize("escaped", [r"\ud800", r"\udfff a", r"a\u0000b"])
    def test_lone_surrogates_and_nul_are_no_text(self, north: httpx.Client, escaped: str):
        """
        JSON can spell them, Unicode text cannot hold them.
        """
        content = '{"documents": [{"text": "%s"}]}' % escaped  # noqa: UP031 braces
        json_type = {"content-type": "application/json"}
        error = error_of(north.post("/v1/ner", content=content, headers=json_type), 422)

        assert "documents[0].text" == error["param"]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"documents": NaN}',
            b"[" * 100_000,
            b"1" * 5000,
        ],
    )
    def test_what_is_no_json_object_is_refused(self, north: httpx.Client, content: bytes):
        """
        Cut off, not UTF-8, too deep, or a number of 5,000 digits: the caller's fault, never a 5xx.
        """
        json_type = {"content-type": "application/json"}
        reply = north.post("/v1/ner", content=content, headers=json_type)

        assert reply.status_code in (400, 422), reply.text
        assert {"message", "type", "param", "code"} <= set(reply.json()["error"])


class TestAFieldThatIsWrong:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"documents": []}, "documents"),
            ({}, "documents"),
            (ner(7), "documents[0].text"),
            (ner("a", colour=CANARY), "?"),
            (ner("a", tenant="south"), "tenant"),
            ({"documents": [{"text": "a", "colour": CANARY}]}, "documents[0].?"),
            ({"documents": [{"text": "a", CANARY: 1}]}, "documents[0].?"),
            (ner("a", **{CANARY: 1}), "?"),
            (ner("a", max_tokens=0), "max_tokens"),
            (ner("a", max_tokens="9"), "max_tokens"),
            ({"documents": CANARY}, "documents"),
        ],
    )
    def test_it_is_named_and_its_value_is_not_repeated(
        self, north: httpx.Client, body: dict[str, Any], param: str
    ):
        """
        A name that is none of ours is not repeated either: it may be a misplaced note.
        """
        assert param == error_of(north.post("/v1/ner", json=body), 422)["param"]

    @pytest.mark.parametrize(
        ("field", "value", "params"),
        [
            ("messages", [{"role": "user", "content": 7}], {"messages[0].content"}),
            (
                "messages",
                [{"role": "user", "content": [{"type": CANARY}]}],
                {"messages[0].content", "messages[0].content[0]"},
            ),
            ("tool_choice", {"function": {}}, {"tool_choice", "tool_choice.function.name"}),
            ("stop", [CANARY, 7], {"stop", "stop[1]"}),
            ("logit_bias", {CANARY: "x"}, {"logit_bias.?"}),
        ],
    )
    def test_it_is_told_where_it_stands_in_what_was_sent(
        self, north: httpx.Client, field: str, value: Any, params: set[str]
    ):
        """
        A field of several forms is told by its own path, once for each form that it is not.
        """
        messages = [{"role": "user", "content": CANARY}]
        body = {"model": "tiny-ner", "messages": messages, field: value}
        error = error_of(north.post("/v1/chat/completions", json=body), 422)

        assert params == {fault["path"] for fault in error["faults"]}

    def test_an_unknown_field_with_a_surrogate_in_its_name_is_refused(self, north: httpx.Client):
        """
        A name that UTF-8 cannot hold still gets an answer.
        """
        content = r'{"documents": [{"text": "a"}], "\ud800": 1}'
        json_type = {"content-type": "application/json"}

        error_of(north.post("/v1/ner", content=content, headers=json_type), 422)

    def test_spans_outside_the_text_are_refused(self, north: httpx.Client):
        """
        Head and tail are code points of the text, and come together.
        """
        head = {"start": 0, "end": 3}
        outside = {"text": "He is ill.", "head": head, "tail": {"start": 6, "end": 99}}
        alone = {"text": "He is ill.", "head": head}

        told = error_of(north.post("/v1/re", json={"documents": [outside]}), 422)
        assert "documents[0].tail" == told["param"]
        told = error_of(north.post("/v1/re", json={"documents": [alone]}), 422)
        assert "documents[0].head" == told["param"]

    def test_too_many_documents_are_refused_with_both_numbers(self, north: httpx.Client):
        """
        The limit is the server's, and the error says it.
        """
        body = {"documents": [{"text": "a"}] * 257}

        assert (
            "257 in one batch; at most 256"
            in error_of(north.post("/v1/ner", json=body), 422)["message"]
        )

    @pytest.mark.parametrize("path", ["/v1/nope", "/v1", "/admin"])
    def test_an_unknown_route_is_a_404_in_the_same_form(self, north: httpx.Client, path: str):
        """
        Callers parse one form of error only.
        """
        error_of(north.get(path), 404)

    def test_embeddings_are_no_route(self, running: Running):
        """
        A backbone that generates has none; OpenAI's client hears that it is not found.
        """
        client = openai.OpenAI(
            base_url=f"{running.url}/v1", api_key=running.key("north"), max_retries=0
        )
        with pytest.raises(openai.NotFoundError) as refusal:
            client.embeddings.create(model="tiny-ner", input=CANARY)

        assert {"type": "not_found_error", "param": None} == {
            name: refusal.value.body[name] for name in ("type", "param")
        }
        assert CANARY not in refusal.value.response.text

    def test_a_wrong_method_is_a_405_in_the_same_form(self, north: httpx.Client):
        """
        GET on a task is one.
        """
        error_of(north.get("/v1/ner"), 405)


class TestAnAdapterThatIsWrong:
    @pytest.mark.parametrize(
        "name", ["nothing", "nothing@3", "tiny-ner@9", "../x", "x@0", "Ünï", CANARY]
    )
    def test_an_unknown_one_is_not_found(self, north: httpx.Client, name: str):
        """
        What no adapter can be called is not found either, and not repeated: it may be a note.
        """
        error_of(north.post("/v1/ner", json=ner("a", adapter=name)), 404)

    def test_one_of_another_task_is_named_with_both_tasks(self, north: httpx.Client):
        """
        Answers of the wrong kind are never passed on.
        """
        error = error_of(north.post("/v1/ner", json=ner("a", adapter="tiny-nli")), 422)

        assert "tiny-nli@1 is for nli" in error["message"]
        assert "ner" in error["message"]

    def test_another_tenants_looks_like_none(self, running: Running):
        """
        South cannot tell North's adapter from one that was never made.
        """
        running.publish("north", "discharge", package(seed=41))
        south = running.client("south")

        theirs = south.post("/v1/ner", json=ner("a", adapter="discharge@1"))
        nobodys = south.post("/v1/ner", json=ner("a", adapter="discharge@9"))

        assert "no adapter 'discharge@1'" == error_of(theirs, 404)["message"]
        assert theirs.text.replace("@1", "@9") == nobodys.text


class TestAPackageThatIsWrong:
    def put(self, running: Running, data: bytes, **headers: str) -> httpx.Response:
        kind = {"content-type": "application/octet-stream"} | headers
        return running.admin.put("/admin/v1/adapters/wrong", content=data, headers=kind)

    def test_pickle_is_not_opened(self, running: Running):
        """
        The reply says what it is instead of reading it.
        """
        assert "pickle" in error_of(self.put(running, b"\x80\x04K\x01."), 422)["message"]

    def test_one_for_another_metaprompt_names_both_digests(self, running: Running):
        """
        The sender sees which one it was made for, and which one is here.
        """
        theirs = "sha256:" + "0" * 64
        error = error_of(self.put(running, package(metaprompt=theirs).data), 422)

        (ours,) = running.parts.service.fit.metaprompts
        assert theirs in error["message"]
        assert ours in error["message"]
        assert ["manifest.metaprompt"] == [fault["path"] for fault in error["faults"]]

    def test_one_for_another_backbone_names_both(self, running: Running):
        """
        Name and revision count.
        """
        theirs = {"name": "tiny-llama", "revision": "1"}
        error = error_of(self.put(running, package(backbone=theirs).data), 422)

        assert "is tiny-llama@1, this server has tiny-llama@0" in error["message"]

    def test_one_of_another_template_is_refused(self, running: Running):
        """
        Its scores would mean nothing under this server's rendering.
        """
        error = error_of(self.put(running, package(template_version=99).data), 422)

        assert "is 99, this server has" in error["message"]

    def test_another_media_type_is_a_415(self, running: Running):
        """
        A form or a JSON body is no package.
        """
        reply = self.put(running, package().data, **{"content-type": "multipart/form-data"})

        error_of(reply, 415)

    @pytest.mark.parametrize("name", ["a%2Fb", "A", "%00", "é", "a" * 65, "a b"])
    def test_a_name_that_is_none_is_refused(self, running: Running, name: str):
        """
        Only ASCII a-z 0-9 . _ - up to 64.
        """
        kind = {"content-type": "application/octet-stream"}
        path = f"/admin/v1/adapters/{name}"
        reply = running.admin.put(path, content=package().data, headers=kind)

        assert reply.status_code in (404, 422), reply.text

    def test_nothing_of_all_this_was_written(self, running: Running):
        """
        A refused upload leaves no version behind.
        """
        error_of(running.admin.get("/admin/v1/adapters/wrong"), 404)


class TestNumbersThatAreNone:
    @pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty"])
    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_they_are_refused_by_name(self, north: httpx.Client, field: str, number: str):
        """
        Python's JSON reads them; the API does not.
        """
        chat = {"model": "tiny-ner", "messages": [{"role": "user", "content": "a"}]}
        content = json.dumps(chat)[:-1] + f', "{field}": {number}}}'
        json_type = {"content-type": "application/json"}
        reply = north.post("/v1/chat/completions", content=content, headers=json_type)

        assert field == error_of(reply, 422)["param"]

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_they_are_in_no_body(self, number: str):
        """
        They are refused where no bound of a field's own would do so, too.
        """

        class Unbounded(Body):
            value: Real

        with pytest.raises(ValidationError, match="finite_number"):
            Unbounded.model_validate({"value": float(number)})


class TestAnAdapterFromAnEarlierServer:
    @pytest.mark.parametrize(
        ("made_for", "said"),
        [
            (
                {"backbone": BackboneId(name="meta/Other-8B", revision="1")},
                "meta/Other-8B@1, this server has tiny-llama@0",
            ),
            ({"metaprompt": "sha256:" + "0" * 64}, "0000, this server has sha256:"),
        ],
    )
    def test_is_refused_and_both_are_named(self, running: Running, made_for: dict, said: str):
        """
        The store outlives backbone and metaprompt; a factor of others would answer nonsense.
        """
        store = running.parts.store
        ref = store.versions.publish("relic", "old", package(**made_for))
        asked = {"documents": [{"text": "a"}], "adapter": str(ref)}
        chat = {"model": str(ref), "messages": [{"role": "user", "content": "a"}]}
        relic = running.client("relic")
        for reply in (
            relic.post("/v1/ner", json=asked),
            relic.post("/v1/chat/completions", json=chat),
        ):
            assert 422 == reply.status_code
            assert said in reply.json()["error"]["message"]


class TestAnEngineWithoutOpenAIsApi:
    @pytest.mark.parametrize(
        ("path", "asked"),
        [
            ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
            ("completions", {"prompt": "a"}),
            ("responses", {"input": "a"}),
        ],
    )
    def test_says_which_one_has_it(self, running: Running, path: str, asked: dict[str, Any]):
        """
        A 501 that clients do not send again.
        """
        body = {"model": "tiny-llama"} | asked
        reply = running.client("north").post(f"/v1/{path}", json=body)

        assert "GALENIC_ENGINE=vllm" in error_of(reply, 501)["message"]
        assert "false" == reply.headers["x-should-retry"]
