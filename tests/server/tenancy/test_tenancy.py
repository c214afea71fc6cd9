"""What a tenant sees of another: nothing. And of vLLM's own HTTP: nothing either."""

import json

import pytest

from galenic_server.tenancy.keys import Role
from tests.support.serving import Running, package

NER = {"documents": [{"text": "He has gout."}], "max_tokens": 4}
CHAT = {"messages": [{"role": "user", "content": "He has gout."}], "max_tokens": 4}
VLLMS = [
    *("/tokenize", "/detokenize", "/sleep", "/wake_up", "/is_sleeping", "/collective_rpc"),
    *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/pause", "/resume"),
    *("/update_weights", "/init_weights_update_group", "/init_weight_transfer_engine"),
    *("/start_profile", "/stop_profile", "/scale_elastic_ep", "/is_scaling_elastic_ep"),
    *("/server_info", "/version", "/load", "/ping", "/invocations", "/abort_requests"),
    *("/pooling", "/classify", "/score", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/score"),
    *("/v1/embeddings", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/realtime"),
    *("/inference/v1/generate", "/v1/messages", "/get_world_size", "/v1/completions/render"),
]


@pytest.fixture(scope="module")
def norths(running: Running) -> dict:
    """An adapter of North's, with an alias."""
    made = running.publish("norths-own", "secretive", package(seed=77))
    body = {"adapter": "secretive@1"}
    running.admin.put("/admin/v1/aliases/hush?tenant=norths-own", json=body).raise_for_status()
    return made


def without_names(text: str, *names: str) -> str:
    for name in names:
        text = text.replace(name, "NAME")
    return text


class TestAnothersAdapter:
    @pytest.mark.parametrize("name", ["secretive", "secretive@1", "hush", "norths-own/secretive"])
    def test_answers_as_if_it_were_not_there(self, running: Running, norths: dict, name: str):
        """
        Case 5: in `adapter` and in `model`, 404, told as of any name that nobody has; nothing runs.
        """
        south = running.client("souths-own")
        nobodys = name.replace("secretive", "invented").replace("hush", "silent")

        def tokens() -> list[str]:
            page = running.anyone.get("/metrics").text
            return [line for line in page.splitlines() if "souths-own" in line and "tokens" in line]

        before = tokens()
        for path, field, rest in (
            ("/v1/ner", "adapter", NER),
            ("/v1/chat/completions", "model", CHAT),
        ):
            theirs = south.post(path, json=rest | {field: name})
            none = south.post(path, json=rest | {field: nobodys})
            assert (404, 404) == (theirs.status_code, none.status_code)
            said = [without_names(one.text, name, nobodys) for one in (theirs, none)]
            assert said[0] == said[1]
        assert before == tokens()
        assert (
            200
            == running.client("norths-own")
            .post("/v1/ner", json=NER | {"adapter": name})
            .status_code
        )

    def test_is_not_there_for_its_admin_either(self, running: Running, norths: dict):
        """
        Case 4: on every route that names one, byte for byte what is said of none.
        """
        chief = running.client("souths-own", Role.TENANT_ADMIN)
        kinds = (
            ("GET", "/admin/v1/adapters/{}"),
            ("GET", "/admin/v1/adapters/{}/1"),
            ("GET", "/admin/v1/adapters/{}/1/package"),
            ("DELETE", "/admin/v1/adapters/{}/1"),
            ("POST", "/admin/v1/adapters/{}/1/undelete"),
            ("GET", "/admin/v1/aliases/{}"),
            ("POST", "/admin/v1/aliases/{}/promote"),
            ("POST", "/admin/v1/aliases/{}/rollback"),
            ("DELETE", "/admin/v1/aliases/{}"),
            ("GET", "/v1/models/{}"),
        )
        for method, path in kinds:
            theirs, none = ("hush", "silent") if "alias" in path else ("secretive", "invented")
            replies = [
                chief.request(method, path.format(name), headers={"if-match": "*"})
                for name in (theirs, none)
            ]
            assert [404, 404] == [reply.status_code for reply in replies], path
            assert without_names(replies[0].text, theirs) == without_names(replies[1].text, none)
        by_digest = chief.post(
            "/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": norths["digest"]}
        )
        assert 404 == by_digest.status_code
        moved = chief.put("/admin/v1/aliases/mine", json={"adapter": "secretive@1"})
        assert 404 == moved.status_code

    def test_is_not_listed(self, running: Running, norths: dict):
        """
        Case 6: models are one's own, the shared ones and the backbone; nor in any other list.
        """
        running.publish("souths-own", "mine", package(seed=78))
        south = running.client("souths-own")
        chief = running.client("souths-own", Role.TENANT_ADMIN)
        models = south.get("/v1/models").json()["data"]
        lists = [
            chief.get(path).text
            for path in (
                "/v1/models",
                "/admin/v1/adapters?limit=1000",
                "/admin/v1/adapters?deleted=true",
                "/admin/v1/aliases",
                "/admin/v1/uploads",
                "/admin/v1/shares",
                "/admin/v1/keys",
            )
        ]

        owners = {one["owned_by"] for one in models}  # other tests share theirs with all
        assert {"souths-own", "galenic"} <= owners - {"norths-own"} == owners
        assert {"mine", "mine@1"} & {one["id"] for one in models}
        for text in lists:
            assert "secretive" not in text
            assert "hush" not in text
            assert "norths-own" not in text

    def test_is_not_reached_by_naming_the_tenant(self, running: Running, norths: dict):
        """
        Case 7: `tenant` in a body is refused by name, and in a query it takes an admin's key.
        """
        south = running.client("souths-own", Role.TENANT_ADMIN)
        for path, body in (
            ("/v1/ner", NER | {"tenant": "norths-own"}),
            ("/v1/nli", {"documents": [{"premise": "a", "hypothesis": "b", "tenant": "x"}]}),
            ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "b", "tenant": "x"}),
            ("/admin/v1/keys/0/rotate", {"tenant": "norths-own"}),
        ):
            reply = south.post(path, json=body)
            assert 422 == reply.status_code, (path, reply.text)
            assert "tenant" in reply.json()["error"]["param"]
        chat = CHAT | {"model": "tiny-ner", "tenant": "norths-own"}
        assert south.post("/v1/chat/completions", json=chat).status_code in (400, 422)
        for path in ("adapters", "aliases", "uploads", "shares"):
            reply = south.get(f"/admin/v1/{path}?tenant=norths-own")
            assert 403 == reply.status_code


class TestVllmsOwnRoutes:
    @pytest.mark.parametrize("path", VLLMS)
    def test_are_not_there(self, running: Running, path: str):
        """
        Case 11: to nobody, an admin's key included.
        """
        for client in (running.anyone, running.admin):
            replies = [client.get(path), client.post(path, content=json.dumps({}))]
            assert [404, 404] == [reply.status_code for reply in replies]


class TestJobs:
    @pytest.mark.parametrize(
        "path", ["/v1/fine_tuning/jobs", "/v1/batches", "/v1/files", "/admin/v1/jobs"]
    )
    def test_are_no_such_thing(self, running: Running, path: str):
        """
        Case 4: what learns, learns elsewhere; there is no job that another tenant could read.
        """
        for url in (path, f"{path}/1"):
            told = [running.admin.get(url), running.admin.post(url, json={})]
            assert [404, 404] == [reply.status_code for reply in told]
