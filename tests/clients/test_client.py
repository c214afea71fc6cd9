"""Both clients against a real server."""

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from galenic_adapters.refs import SHARED
from galenic_client import AsyncClient, Client
from galenic_client.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    ServerError,
    Unauthenticated,
    Unreachable,
)
from galenic_client.types import ToPush
from galenic_server.tenancy.keys import Role
from tests.support.serving import Running, package

MESSAGES: list[Any] = [{"role": "user", "content": "He has gout."}]


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, api_key=running.key("north")) as made:
        yield made


@pytest.fixture
def admin(running: Running) -> Iterator[Client]:
    with Client(running.url, api_key=running.key(SHARED, Role.ADMIN)) as made:
        yield made


class TestTheTasks:
    def test_come_back_typed(self, client: Client):
        """
        One method a task, documents as texts or as dictionaries, answers in their order.
        """
        ner = client.ner(["He has gout.", {"id": "b", "text": "None."}], max_tokens=8)
        re = client.re(
            [{"text": "A b", "head": {"start": 0, "end": 1}, "tail": {"start": 2, "end": 3}}]
        )
        qa = client.qa([{"question": "Which?", "options": {"A": "one", "B": "two"}}])
        nli = client.nli([{"premise": "He has gout.", "hypothesis": "He is ill."}])
        summary = client.summarize(["He has gout."], max_tokens=8)

        assert ["0", "b"] == [one.id for one in ner.documents]
        assert ("tiny-ner", 1) == (ner.adapter.name, ner.adapter.version)
        assert re.documents[0].relations is not None
        assert qa.documents[0].answer in ("A", "B")
        assert nli.documents[0].label in ("entailment", "contradiction", "neutral")
        assert 0 < (nli.documents[0].confidence or 0) <= 1
        assert "truncated" == summary.documents[0].reading

    def test_chat_whole_and_in_pieces(self, vllm_running: Running):
        """
        The pieces make the whole.
        """
        with Client(vllm_running.url, api_key=vllm_running.key("north")) as client:
            whole = client.chat("tiny-ner", MESSAGES, max_tokens=8)

            assert whole.text == "".join(client.stream("tiny-ner", MESSAGES, max_tokens=8))
            assert whole.adapter is not None
            assert "ner" in {model.id for model in client.models()}


class TestAdministration:
    def test_publishes_moves_lists_and_deletes(self, admin: Client, tmp_path: Path):
        """
        The life of an adapter, from a file.
        """
        file = tmp_path / "a.safetensors"
        file.write_bytes(package(seed=1).data)
        made = admin.push("life", file, tenant="clients")
        admin.push("life", package(seed=2).data, tenant="clients", version=2)
        admin.alias("live", "life@1", tenant="clients")
        with pytest.raises(Conflict):
            admin.alias("live", "life@2", tenant="clients")
        seen = admin.get_alias("live", tenant="clients").etag
        admin.alias("live", "life@2", etag=seen, tenant="clients")

        assert 1 == made.version
        assert [1, 2] == [one.version for one in admin.list(tenant="clients")]
        assert ["life@2"] == [one.adapter for one in admin.aliases(tenant="clients")]
        with pytest.raises(Conflict):
            admin.delete("life", 2, tenant="clients")
        admin.drop_alias("live", tenant="clients")
        admin.delete("life", 2, tenant="clients")
        with pytest.raises(NotFound):
            admin.delete("life", 2, tenant="clients")

    def test_tries_a_package_out_and_tells_its_state(self, admin: Client):
        """
        Faults without an upload; an upload by its key; what was deleted comes back.
        """
        bad = admin.try_out("tried", package(template_version=7).data, tenant="clients")
        assert ["manifest.template_version"] == [fault.path for fault in bad.faults]
        assert admin.try_out("tried", package(seed=3).data, tenant="clients").accepted

        made = admin.push(
            "tried", package(seed=3).data, tenant="clients", idempotency_key="build-7"
        )
        told = admin.upload("build-7", tenant="clients")
        assert ("tried@1", made.digest) == (told.adapter, told.digest)
        assert "build-7" in [one.id for one in admin.uploads(tenant="clients")]
        admin.delete("tried", 1, tenant="clients")
        assert "tried" in [one.name for one in admin.list(tenant="clients", deleted=True)]
        assert made.digest == admin.undelete("tried", 1, tenant="clients").digest

    def test_turns_aliases(self, admin: Client):
        """
        A canary, promoted and rolled back.
        """
        for seed in (11, 12):
            admin.push("turning", package(seed=seed).data, tenant="clients")
        made = admin.alias("turn", "turning@1", canary=("turning@2", 10), tenant="clients")
        assert made.canary is not None
        assert ("turning@2", 10) == (made.canary.adapter, made.canary.weight)
        assert "turning@2" == admin.promote("turn", etag=made.etag, tenant="clients").adapter
        with pytest.raises(Conflict):
            admin.roll_back("turn", etag=made.etag, tenant="clients")
        assert "turning@1" == admin.roll_back("turn", tenant="clients").adapter

    def test_keeps_tenants(self, admin: Client):
        """
        Quotas, whom names are lent, a whole tenant out and in again, and who serves.
        """
        admin.push("kept", package(seed=21).data, tenant="clients-moving")
        assert 9 == admin.set_tenant("clients-moving", max_adapters=9).max_adapters
        assert "clients-moving" in [one.tenant for one in admin.tenants()]
        assert admin.share("kept", ["*"], tenant="clients-moving").with_everyone
        assert ["kept"] == [one.name for one in admin.shares(tenant="clients-moving")]
        archive = b"".join(admin.export("clients-moving"))
        brought = admin.bring("clients-imported", archive)
        assert (1, 1) == (brought.num_adapters, brought.num_shares)
        assert 1 == admin.tenant("clients-imported").num_adapters
        assert admin.describe("kept", 1, tenant="clients-imported").digest
        assert 1 == len(admin.replicas())

    def test_keeps_limits(self, admin: Client):
        """
        Set, read, and dropped again.
        """
        usual = admin.limits("clients")
        made = admin.set_limits("clients", requests_per_minute=90, weight=0.5)
        assert (90, None, 0.5) == (made.requests_per_minute, made.concurrent, made.weight)
        assert made == admin.limits("clients")
        admin.clear_limits("clients")
        assert usual == admin.limits("clients")

    def test_rotates_and_ends_keys(self, admin: Client):
        """
        The new one names the same tenant; the old one says what replaced it.
        """
        old = admin.create_key("clients", "tenant-admin", label="nightly job")
        new = admin.rotate_key(old.id, grace_seconds=60)
        known = {one.id: one for one in admin.keys(tenant="clients")}
        assert new.id == known[old.id].replaced_by
        assert ("nightly job", "tenant-admin") == (new.label, new.role)
        ended = admin.expire_key(new.id, datetime.now(UTC))
        assert ended.expires is not None

    def test_makes_and_revokes_keys(self, admin: Client, running: Running):
        """
        A revoked key is an Unauthenticated to its holder.
        """
        made = admin.create_key("clients")
        with Client(running.url, api_key=made.key) as theirs:
            assert theirs.models()
            admin.revoke_key(made.id)
            with pytest.raises(Unauthenticated):
                theirs.models()
        known = {key.id: key for key in admin.keys(tenant="clients")}
        assert known[made.id].revoked


class TestTheTwins:
    def test_are_alike(self):
        """
        What one client can be asked the other can, in the same words.
        """

        def calls(client: type) -> dict[str, list[str]]:
            found = inspect.getmembers(client, inspect.isfunction)
            return {
                name.replace("aclose", "close"): [
                    str(one).replace("AsyncIterable", "Iterable")
                    for one in inspect.signature(function).parameters.values()
                ]
                for name, function in found
                if not name.startswith("_")
            }

        assert calls(Client) == calls(AsyncClient)
        assert len(calls(Client)) > 30


class TestManyPackages:
    def test_are_told_one_by_one(self, admin: Client):
        """
        Those that came, those that were there, and what is wrong with one; a bulk without end.
        """
        made = [ToPush(f"many-{seed}", package(seed=seed).data) for seed in range(600, 603)]
        bad = ToPush("bad", package(seed=600, template_version=7).data)
        once = list(admin.push_many([*made, bad], tenant="bulk-client"))
        again = list(admin.push_many(made, tenant="bulk-client"))

        assert ["new", "new", "new", "failed"] == [one.state for one in once]
        assert "rejected_upload" == (once[3].error or {})["code"]
        assert [(i, "there", 1) for i in (1, 2, 3)] == [
            (one.line, one.state, one.version) for one in again
        ]

    def test_are_refused_as_one(self, client: Client):
        """
        With a caller's key nothing is written, and the error is the server's.
        """
        with pytest.raises(Forbidden):
            list(client.push_many([ToPush("a", package().data)]))

    def test_whose_answer_is_cut_may_be_sent_again(self):
        """
        An answer without its last line is an `Unreachable`, after what was told.
        """
        line = b'{"line": 1, "state": "new", "name": "a", "version": 1, "digest": "sha256:"}\n'
        cut = httpx.MockTransport(lambda request: httpx.Response(200, content=line))
        with Client(transport=cut) as client:
            told = client.push_many([])
            assert "a" == next(told).name
            with pytest.raises(Unreachable):
                next(told)

    def test_go_by_the_async_client_too(self, running: Running):
        """
        Packages come from files or from bytes.
        """

        async def push() -> list[str]:
            key = running.key(SHARED, Role.ADMIN)
            async with AsyncClient(running.url, api_key=key) as client:
                made = [ToPush("a", package(seed=610).data, version=4)]
                return [one.state async for one in client.push_many(made, tenant="bulk-async")]

        assert ["new"] == asyncio.run(push())


class TestErrors:
    def test_tell_what_the_server_told(self, client: Client):
        """
        Kind, field, code and the id to look for in the server's log.
        """
        with pytest.raises(BadRequest) as caught:
            client.ner([""])
        assert ("documents[0].text", "bad_input", 422) == (
            caught.value.param,
            caught.value.code,
            caught.value.status,
        )
        assert caught.value.request_id
        with pytest.raises(NotFound):
            client.ner(["a"], adapter="nothing")
        with pytest.raises(Forbidden):
            client.create_key("north")

    def test_a_refused_package_comes_with_its_faults(self, admin: Client):
        """
        Each with its place.
        """
        with pytest.raises(BadRequest) as caught:
            admin.push("x", package(template_version=7).data)
        assert ["manifest.template_version"] == [one["path"] for one in caught.value.faults]

    def test_of_a_stream_come_before_its_first_piece(self, client: Client):
        """
        A stream refused before its first piece raises the error that any other call raises.
        """
        with pytest.raises(NotFound):
            next(client.stream("nothing", MESSAGES))


class TestAChatsReply:
    def test_keeps_tool_calls_further_choices_and_log_probabilities(self):
        """
        An answer that calls a tool has no text.
        """
        call = {"id": "t1", "type": "function", "function": {"name": "bp", "arguments": "{}"}}
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        said = {"role": "assistant", "content": "120/80"}
        answer = {
            "id": "c",
            "model": "m",
            "choices": [
                {"index": 0, "finish_reason": "tool_calls", "message": called},
                {"index": 1, "finish_reason": "stop", "message": said, "logprobs": {"content": []}},
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        mock = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
        with Client("http://x", transport=mock) as client:
            reply = client.chat("m", MESSAGES)

        assert (None, "tool_calls") == (reply.text, reply.finish_reason)
        assert ["bp"] == [one.function.name for one in reply.tool_calls]
        assert [None, "120/80"] == [one.text for one in reply.choices]
        assert {"content": []} == reply.choices[1].logprobs


class Flaky(httpx.BaseTransport):
    """A server that fails as told before it answers."""

    def __init__(self, *failures: httpx.Response | httpx.TransportError) -> None:
        self.failures = list(failures)
        self.num_requests = 0
        self.keys: set[str] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.num_requests += 1
        self.keys.add(request.headers.get("idempotency-key", ""))
        if not self.failures:
            return httpx.Response(200, json={"data": [], "adapters": [], "next": None})
        failure = self.failures.pop(0)
        if isinstance(failure, httpx.Response):
            return failure
        raise failure


def busy(**headers: str) -> httpx.Response:
    return httpx.Response(503, headers={"retry-after": "0"} | headers, json={"error": {}})


class TestRetries:
    def test_wait_as_long_as_the_server_asks(self):
        """
        A 503 with Retry-After says that nothing was done.
        """
        flaky = Flaky(busy(), busy())
        with Client("http://galenic", transport=flaky) as client:
            assert [] == client.models()
        assert 3 == flaky.num_requests

    def test_end_after_the_last(self):
        """
        The error is the last one's.
        """
        flaky = Flaky(*[busy() for _ in range(9)])
        one_more = Client("http://galenic", transport=flaky, retries=1)
        with one_more as client, pytest.raises(ServerError):
            client.models()
        assert 2 == flaky.num_requests

    def test_do_not_happen_where_the_server_forbids(self):
        """
        x-should-retry: false means that it would die of it again.
        """
        flaky = Flaky(busy(**{"x-should-retry": "false"}))
        with Client("http://galenic", transport=flaky) as client, pytest.raises(ServerError):
            client.models()
        assert 1 == flaky.num_requests

    def test_do_not_publish_twice(self):
        """
        An upload that may have arrived is sent again under the key that it had; a key is made once.
        """
        lost = httpx.ReadError("gone")
        flaky = Flaky(lost, busy(), busy())
        with Client("http://galenic", transport=flaky) as client, pytest.raises(ServerError):
            client.push("x", b"...")
        assert 3 == flaky.num_requests
        assert 1 == len(flaky.keys)

        flaky = Flaky(lost)
        with Client("http://galenic", transport=flaky) as client, pytest.raises(Unreachable):
            client.create_key("x")
        assert 1 == flaky.num_requests


class TestTheAsyncClient:
    def test_does_what_the_blocking_one_does(self, vllm_running: Running):
        """
        Side by side, in one event loop.
        """

        async def both() -> tuple[list[str | None], str, str]:
            key = vllm_running.key("north")
            async with AsyncClient(vllm_running.url, api_key=key) as client:
                asked = [client.nli([{"premise": "a", "hypothesis": "b"}]) for _ in range(4)]
                labels = [reply.documents[0].label for reply in await asyncio.gather(*asked)]
                whole = await client.chat("tiny-ner", MESSAGES, max_tokens=8)
                pieces = [one async for one in client.stream("tiny-ner", MESSAGES, max_tokens=8)]
                return labels, whole.text, "".join(pieces)

        labels, whole, pieces = asyncio.run(both())
        assert 1 == len(set(labels))
        assert whole == pieces

    def test_has_the_same_methods(self):
        """
        Both clients have the same methods, so who knows one knows both.
        """

        def methods(kind: type) -> set[str]:
            return {name for name in dir(kind) if not name.startswith("_")}

        assert methods(Client) == methods(AsyncClient)

    def test_says_who_is_not_there(self):
        """
        An address where nobody listens is an Unreachable, not an httpx error.
        """

        async def ask() -> None:
            async with AsyncClient("http://127.0.0.1:1", retries=0) as client:
                assert not await client.is_ready()
                await client.models()

        with pytest.raises(Unreachable):
            asyncio.run(ask())
