"""What is wrong gets one clear error from the real server, which lives on and repeats nothing."""

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save

from galenic_adapters.factor import Factor
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.tasks.base import TaskName
from tests.support.real_server import ADMIN_KEY, RealServer, Zoo

CANARY = "Zebrafinch"
NOTE = f"{CANARY} was treated for cystic fibrosis."
OTHERS = "sha256:" + "0" * 64
JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture
def http(server: RealServer, zoo: Zoo) -> Iterator[httpx.Client]:
    """Around every test: afterwards the server answers, and nothing it wrote holds the note."""
    with server.http() as client:
        yield client
        good = client.post("/v1/ner", json={"documents": [{"text": NOTE}], "max_tokens": 8})
        assert 200 == good.status_code, good.text
    assert CANARY not in server.said()


@pytest.fixture
def admin(server: RealServer, http: httpx.Client) -> Iterator[httpx.Client]:
    with server.http(ADMIN_KEY) as client:
        yield client


def error_of(reply: httpx.Response, status: int, code: str, param: str | None) -> str:
    """The one error's message."""
    assert status == reply.status_code, reply.text
    assert CANARY not in reply.text
    assert reply.headers["x-request-id"]
    error = reply.json()["error"]
    assert (code, param) == (error["code"], error["param"])
    message: str = error["message"]
    return message


def ner(text: str = NOTE, **more: Any) -> dict[str, Any]:
    return {"documents": [{"text": text}], **more}


def chat(content: Any = NOTE, **more: Any) -> dict[str, Any]:
    return {"model": "ner", "messages": [{"role": "user", "content": content}], **more}


LONG_NOTE = f"{NOTE} He takes 5 mg of warfarin a day. " * 300
LONGEST_NOTE = f"{NOTE} Denies chest pain. ".ljust(80, ".") * 2_500

TASK_REQUESTS = {
    "empty": (ner(""), 422, "bad_input", "documents[0].text", "is empty"),
    "blank": (ner(" \n\t"), 422, "bad_input", "documents[0].text", "is empty"),
    "200,000 characters": (
        ner(LONGEST_NOTE),
        400,
        "context_length_exceeded",
        "documents[0]",
        "the context holds 4,096",
    ),
    "longer than the context": (
        ner(LONG_NOTE),
        400,
        "context_length_exceeded",
        "documents[0]",
        "64 of the adapter's prompt, 256 for the answer); the context holds 4,096",
    ),
    "unknown adapter": (ner(adapter="nobody@3"), 404, "not_found", None, "'nobody@3'"),
    "adapter of another task": (ner(adapter="nli"), 422, "wrong_task", None, "is for nli"),
    "unknown field": (ner(colour=CANARY), 422, "invalid_field", "?", "is not a known field"),
    "unknown field of a document": (
        {"documents": [{"text": NOTE, "colour": CANARY}]},
        422,
        "invalid_field",
        "documents[0].?",
        "is not a known field",
    ),
}

CHATS = {
    "presence penalty": (chat(presence_penalty=2.5), 422, "invalid_field", "presence_penalty"),
    "frequency penalty": (chat(frequency_penalty=-9), 422, "invalid_field", "frequency_penalty"),
    "repetition penalty": (chat(repetition_penalty=0), 422, "invalid_field", "repetition_penalty"),
    "a bias past the vocabulary": (chat(logit_bias={"49152": 1}), 422, "bad_input", "logit_bias"),
    "prompt_logprobs": (chat(prompt_logprobs=1), 400, "unsupported_field", "prompt_logprobs"),
    "ids past the vocabulary": (
        chat(prompt_token_ids=[49_152, 10**6]),
        400,
        "unsupported_field",
        "prompt_token_ids",
    ),
    "ids for a text": (
        chat([49_152, 10**6]),
        422,
        "invalid_field",
        "messages[0].content",
    ),
    "longer than the context": (chat(LONG_NOTE), 400, "context_length_exceeded", "messages"),
    "unknown model": ({**chat(), "model": "nobody@3"}, 404, "not_found", None),
}


class TestARequest:
    @pytest.mark.parametrize("name", TASK_REQUESTS)
    def test_for_a_task_that_is_wrong(self, http: httpx.Client, name: str):
        """
        One error, which names the field and the values that disagree.
        """
        body, status, code, param, told = TASK_REQUESTS[name]

        assert told in error_of(http.post("/v1/ner", json=body), status, code, param)

    @pytest.mark.parametrize("name", CHATS)
    def test_for_a_chat_that_is_wrong(self, http: httpx.Client, name: str):
        """
        Nothing reaches past the virtual prompt: neither penalties, nor its log-probabilities, nor
        token ids of anybody's.
        """
        body, status, code, param = CHATS[name]

        error_of(http.post("/v1/chat/completions", json=body), status, code, param)
        error_of(
            http.post("/v1/chat/completions", json=body | {"stream": True}), status, code, param
        )

    @pytest.mark.parametrize("escaped", [r"\ud800", r"\udfff", r"\ude00\ud83d"])
    def test_with_a_lone_surrogate_is_no_text(self, http: httpx.Client, escaped: str):
        """
        JSON can spell one, Unicode text cannot hold it.
        """
        content = f'{{"documents": [{{"text": "{NOTE}{escaped}"}}]}}'
        reply = http.post("/v1/ner", content=content, headers=JSON)

        message = error_of(reply, 422, "bad_input", "documents[0].text")
        assert "surrogate" in message


Bytes = Callable[[Zoo], bytes]


def tensors(zoo: Zoo, factor: Factor, shapes: Any = None) -> bytes:
    """A package that was never checked."""
    shapes = shapes or factor.shapes
    manifest = zoo.manifest(shapes=shapes, task=TaskName.NLI, labels=("yes", "no"))
    metadata = {"galenic": manifest.model_dump_json()}
    return save(factor.tensors, metadata=metadata)


def with_nan(zoo: Zoo) -> bytes:
    factor = zoo.random_factor(seed=0)
    factor.scales["o"][3, 0] = torch.nan
    return tensors(zoo, factor)


def of_wrong_shape(zoo: Zoo) -> bytes:
    return tensors(zoo, Factor(scales={"o": torch.ones(30, 64)}), {"scales.o": (30, 576)})


def of_another_width(zoo: Zoo) -> bytes:
    return tensors(zoo, Factor(scales={"o": torch.ones(30, 64)}))


def for_another_metaprompt(zoo: Zoo) -> bytes:
    return zoo.random_package(0, metaprompt=OTHERS).data


def for_another_backbone(zoo: Zoo) -> bytes:
    return zoo.random_package(0, backbone=BackboneId(name="Elsewhere-7B", revision="abc")).data


def pickled(zoo: Zoo) -> bytes:
    return pickle.dumps({"u": [1.0], "v": [1.0]})


def cut_off(zoo: Zoo) -> bytes:
    return zoo.random_package(0).data[:-7]


UPLOADS: dict[str, tuple[Bytes, str, str]] = {
    "NaN": (with_nan, "tensors.scales.o", "holds NaN"),
    "wrong shape": (of_wrong_shape, "tensors.scales.o", "(30, 64), manifest says (30, 576)"),
    "another width": (of_another_width, "tensors.scales.o", "this backbone takes (30, 576)"),
    "another metaprompt": (for_another_metaprompt, "manifest.metaprompt", OTHERS),
    "another backbone": (for_another_backbone, "manifest.backbone", "Elsewhere-7B@abc"),
    "pickle": (pickled, "package", "is a Python pickle, not safetensors"),
    "cut off": (cut_off, "tensors", "do not fill the file"),
}


class TestAnUpload:
    @pytest.mark.parametrize("name", UPLOADS)
    def test_that_is_wrong_is_refused_whole(self, admin: httpx.Client, zoo: Zoo, name: str):
        """
        The error lists where the fault is and which two values disagree; no version is left behind.
        """
        make, path, told = UPLOADS[name]
        reply = admin.put("/admin/v1/adapters/wrong", content=make(zoo), headers=BINARY)

        assert told in error_of(reply, 422, "rejected_upload", None)
        assert path in [fault["path"] for fault in reply.json()["error"]["faults"]]
        assert 404 == admin.get("/admin/v1/adapters/wrong").status_code

    def test_for_another_server_names_both_sides(self, admin: httpx.Client, zoo: Zoo):
        """
        Both digests, both backbones: the sender sees what was expected.
        """
        expected = {
            for_another_metaprompt: zoo.metaprompt.digest,
            for_another_backbone: f"{zoo.backbone.name}@{zoo.backbone.revision}",
        }
        for make, ours in expected.items():
            reply = admin.put("/admin/v1/adapters/wrong", content=make(zoo), headers=BINARY)
            assert ours in error_of(reply, 422, "rejected_upload", None)

    def test_of_json_is_no_package(self, admin: httpx.Client):
        """
        The media type is looked at before the bytes.
        """
        content = json.dumps({"pickle": CANARY}).encode()
        reply = admin.put("/admin/v1/adapters/wrong", content=content, headers=JSON)

        error_of(reply, 415, "wrong_media_type", None)
