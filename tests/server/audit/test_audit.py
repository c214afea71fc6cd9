"""What leaves a row: every act of an admin, and every answer."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from galenic_adapters.refs import SHARED
from galenic_server.audit.chain import Chain, Tampered
from galenic_server.audit.ledger import Spent
from galenic_server.audit.trail import Trail, provenance
from galenic_server.http import routes
from galenic_server.http.auth import AdminRoute
from galenic_server.tenancy.keys import Role
from tests.support.audited import rows, waited
from tests.support.held import held
from tests.support.serving import (
    SECRET,
    Running,
    eventually,
    make_parts,
    package,
    serving,
)

CANARY = "Xylophonitis"
NER = {"documents": [{"text": f"He has {CANARY}."}] * 2, "max_tokens": 8}
CHAT = {"model": "tiny-ner", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}
BINARY = {"content-type": "application/octet-stream"}
ANY = {"if-match": "*"}


class TestAnAnswer:
    @pytest.fixture
    def running(self, vllm_running: Running) -> Running:
        return vllm_running

    def test_leaves_who_which_when_and_how_much(self, running: Running):
        """
        The row names the key, the adapter's digest and the sizes by the request's id; never a text.
        """
        told = running.client("north").post("/v1/ner", json=NER, headers={"x-request-id": "one"})
        [row] = waited(running, 1, request_id="one")
        usage = told.json()["usage"]

        assert {
            "action": "answer",
            "tenant": "north",
            "route": "/v1/ner",
            "outcome": 200,
            "digest": told.json()["adapter"]["digest"],
            "answers": 2,
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
        }.items() <= row.items()
        assert row["actor"] in {key.id for key in running.parts.keys.of("north", limit=1000)}
        assert row["at"].startswith("20")
        assert CANARY not in json.dumps(row)

    @pytest.mark.parametrize("stream", [False, True])
    def test_of_a_chat_is_told_alike(self, vllm_running: Running, stream: bool):
        """
        Whole or streamed, once.
        """
        id_ = {"x-request-id": f"chat-{stream}"}
        chat = CHAT | {"stream": stream}
        vllm_running.client("north").post("/v1/chat/completions", json=chat, headers=id_)
        [row] = waited(vllm_running, 1, request_id=f"chat-{stream}")

        assert ("/v1/chat/completions", 200, 1) == (row["route"], row["outcome"], row["answers"])
        assert row["completion_tokens"] > 0
        assert row["digest"].startswith("sha256:")

    def test_that_nobody_waited_for_is_told_too(self, vllm_running: Running):
        """
        The engine saw the text, whoever was there to read the answer.
        """
        client = vllm_running.client("north")
        body = CHAT | {"stream": True}
        id_ = {"x-request-id": "left"}
        with held(vllm_running) as engine:
            with client.stream("POST", "/v1/chat/completions", json=body, headers=id_) as stream:
                next(stream.iter_lines())
            eventually(lambda: not engine.held)
        [row] = waited(vllm_running, 1, request_id="left")

        assert 0 == row["answers"]
        assert row["prompt_tokens"] > 0


def key_of(running: Running) -> str:
    """One to be ended."""
    made = running.admin.post("/admin/v1/keys", json={"tenant": "audited"})
    return str(made.json()["id"])


ACTS: dict[str, Callable[[Running], tuple[str, str, dict[str, Any]]]] = {
    "publish": lambda r: (
        "PUT",
        "/admin/v1/adapters/audited",
        {"content": package(seed=41).data, "headers": BINARY},
    ),
    "move_alias": lambda r: (
        "PUT",
        "/admin/v1/aliases/audited-alias",
        {"json": {"adapter": "audited@1"}},
    ),
    "share": lambda r: ("PUT", "/admin/v1/shares/audited", {"json": {"tenants": ["north"]}}),
    "drop_alias": lambda r: ("DELETE", "/admin/v1/aliases/audited-alias", {"headers": ANY}),
    "delete": lambda r: ("DELETE", "/admin/v1/adapters/audited/1", {}),
    "undelete": lambda r: ("POST", "/admin/v1/adapters/audited/1/undelete", {}),
    "load": lambda r: (
        "POST",
        "/v1/load_lora_adapter",
        {"json": {"lora_name": "audited-lora", "lora_path": "audited@1"}},
    ),
    "unload": lambda r: (
        "POST",
        "/v1/unload_lora_adapter",
        {"json": {"lora_name": "audited-lora"}},
    ),
    "set_tenant": lambda r: ("PUT", "/admin/v1/tenants/audited", {"json": {"max_adapters": 9}}),
    "create_key": lambda r: ("POST", "/admin/v1/keys", {"json": {"tenant": "audited"}}),
    "rotate_key": lambda r: ("POST", f"/admin/v1/keys/{key_of(r)}/rotate", {"json": {}}),
    "expire_key": lambda r: (
        "POST",
        f"/admin/v1/keys/{key_of(r)}/expire",
        {"json": {"expires": "2026-01-01T00:00:00Z"}},
    ),
    "revoke_key": lambda r: ("DELETE", f"/admin/v1/keys/{key_of(r)}", {}),
    "set_limits": lambda r: (
        "PUT",
        "/admin/v1/tenants/audited/limits",
        {"json": {"concurrent": 9}},
    ),
    "drop_limits": lambda r: ("DELETE", "/admin/v1/tenants/audited/limits", {}),
}


class TestAnAdminsAct:
    @pytest.mark.parametrize("action", ACTS)
    def test_is_there_as_soon_as_it_is_acknowledged(self, running: Running, action: str):
        """
        Case 45: its row stands in the transaction that made the change: no waiting.
        """
        method, url, how = ACTS[action](running)
        before = len(rows(running, action=action))
        id_ = {"x-request-id": f"act-{action}"}
        sent = how | {"headers": how.get("headers", {}) | id_}
        reply = running.admin.request(method, url, params={"tenant": "audited"}, **sent)
        [row] = rows(running, action=action)[before:]

        assert reply.is_success, reply.text
        assert ("done", f"act-{action}", "admin") == (
            row["outcome"],
            row["request_id"],
            row["actor_role"],
        )
        assert row["actor"] in {key.id for key in running.parts.keys.of(SHARED, limit=1000)}

    def test_tells_old_new_and_digest(self, running: Running):
        """
        A moved alias: from where to where, and by whom.
        """
        chief = running.client("audited-moves", Role.TENANT_ADMIN)
        digests = [
            chief.put(
                "/admin/v1/adapters/m", content=package(seed=seed).data, headers=BINARY
            ).json()["digest"]
            for seed in (51, 52)
        ]
        for version in (1, 2):
            body = {"adapter": f"m@{version}"}
            condition = ANY if version > 1 else {}
            chief.put("/admin/v1/aliases/ner", json=body, headers=condition).raise_for_status()
        first, second = rows(running, action="move_alias", tenant="audited-moves")

        assert (None, "m@1", digests[0]) == (first["old"], first["new"], first["digest"])
        assert ("m@1", "m@2", digests[1]) == (second["old"], second["new"], second["digest"])
        assert {"alias": "ner"} == second["subject"]

    def test_that_was_refused_or_only_read_leaves_a_row_soon(self, running: Running):
        """
        A refused act leaves one too. It holds names of ours only, whatever was sent.
        """
        north = running.client("north")
        north.put(
            "/admin/v1/aliases/ner", json={"adapter": "x@1"}, headers={"x-request-id": "refused"}
        )
        running.admin.get(
            "/admin/v1/adapters", params={"tenant": "audited"}, headers={"x-request-id": "read"}
        )
        running.admin.get(f"/admin/v1/adapters/{CANARY} has gout", headers={"x-request-id": "odd"})
        [refused] = waited(running, 1, action="move_alias", request_id="refused")
        [read] = waited(running, 1, action="list_adapters", request_id="read")
        [odd] = waited(running, 1, request_id="odd")

        assert "Forbidden" == refused["outcome"]
        assert {"tenant": "audited"} == read["subject"]
        assert CANARY not in json.dumps(odd)

    def test_of_every_admin_route_is_audited(self, running: Running):
        """
        No admin route is made without.
        """
        document = running.anyone.get("/openapi.json").json()
        admin = {path for path in document["paths"] if path.startswith("/admin")}
        audited = {
            route.path_format
            for router in _routers()
            for route in router.routes
            if isinstance(route, AdminRoute)
        }

        assert admin
        assert admin <= audited


def _routers() -> list[Any]:
    names = [module.name for module in pkgutil.iter_modules(routes.__path__)]
    modules = [importlib.import_module(f"galenic_server.http.routes.{name}") for name in names]
    return [module.router for module in modules if hasattr(module, "router")]


class TestTheTrail:
    def test_is_whole_after_a_stop(self, backbone: str, tmp_path: Path):
        """
        What was answered last is written before the server ends.
        """
        parts = make_parts(backbone, tmp_path)
        # Only the stop writes.
        parts = replace(parts, trail=Trail(parts.trail.chain, flush_seconds=3600))
        with serving(parts) as server:
            server.publish("north", "mine", package())
            body = NER | {"adapter": "mine"}
            assert server.client("north").post("/v1/ner", json=body).is_success
        parts = make_parts(backbone, tmp_path)
        records = [record for record, _ in parts.trail.chain.rows()]
        parts.trail.chain.verify()
        parts.store.close()

        assert "answer" == records[-1]["action"]

    def test_is_not_begun_anew(self, backbone: str, tmp_path: Path):
        """
        A server that was stopped remembers how long its chain was, beside its secret: with another
        database under its address it does not start.
        """
        with serving(make_parts(backbone, tmp_path), ready=False):
            pass
        for file in tmp_path.glob("galenic.db*"):
            file.unlink()

        with pytest.raises(
            Tampered, match=r"seen at row 1, and ends at 0 now.*delete .*audit-head"
        ):
            make_parts(backbone, tmp_path)

    def test_that_cannot_be_written_stops_the_answers(self, backbone: str, tmp_path: Path):
        """
        Rows wait while the chain cannot be written; once too many do, nothing is answered that
        would leave none. Nobody is told why but the log.
        """
        parts = make_parts(backbone, tmp_path)
        parts = replace(parts, trail=Trail(parts.trail.chain, most_waiting=3))
        with serving(parts) as server:
            server.publish("north", "mine", package())
            north, body = server.client("north"), NER | {"adapter": "mine"}
            with parts.store.database.writing() as db:
                db.execute(sa.text("UPDATE audit_head SET seal = 'forged'"))
            replies = [north.post("/v1/ner", json=body) for _ in range(4)]

        assert [200, 200, 200, 503] == [reply.status_code for reply in replies]
        assert replies[3].headers["retry-after"]
        assert "audit" in replies[3].json()["error"]["message"]

    def test_row_holds_numbers_and_names_only(self):
        """
        A row holds nothing else of a ledger.
        """
        row = provenance({"tenant": "north"}, "sha256:0", Spent(1, 2, 3))

        assert {"north", "answer", "sha256:0", 1, 2, 3} == set(row.values())


class TestTheCommand:
    def galenic(self, home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"GALENIC_HOME": str(home), "GALENIC_SECRET": SECRET.decode()}
        command = [sys.executable, "-m", "galenic_adapters.cli", "audit", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def test_verifies_and_exports(self, backbone: str, tmp_path: Path):
        """
        JSON lines with their MACs; tampering ends it with 1 and the place.
        """
        parts = make_parts(backbone, tmp_path)
        chain: Chain = parts.trail.chain
        chain.append(
            [{"action": "ask", "tenant": tenant} for tenant in ("north", "south", "north")]
        )
        whole = self.galenic(tmp_path, "verify")
        lines = self.galenic(tmp_path, "export", "--tenant", "north").stdout.splitlines()
        noted = self.galenic(tmp_path, "verify", "--head", str(chain.head()))
        with parts.store.database.writing() as db:
            db.execute(sa.text("DELETE FROM audit WHERE number = 2"))
        broken = self.galenic(tmp_path, "verify")
        with pytest.raises(Tampered):
            chain.verify()
        parts.store.close()

        assert (0, "whole: 4 rows") == (whole.returncode, whole.stdout.splitlines()[0])
        assert 0 == noted.returncode
        told = [json.loads(line) for line in lines]
        assert [2, 4] == [one["number"] for one in told]
        assert all(64 == len(one["mac"]) for one in told)
        assert (1, "galenic: row 2 is not there\n") == (broken.returncode, broken.stderr)

    def test_archives_old_rows(self, backbone: str, tmp_path: Path):
        """
        The file is whole by itself, and the chain without it.
        """
        parts, file = make_parts(backbone, tmp_path), tmp_path / "old.jsonl"
        parts.store.close()
        none = self.galenic(tmp_path, "archive", "--to", str(file))
        done = self.galenic(tmp_path, "archive", "--to", str(file), "--older-than-days", "0")
        kept = self.galenic(tmp_path, "verify", "--archive", str(file))
        rest = self.galenic(tmp_path, "verify")

        assert "archived: no rows\n" == none.stdout
        assert f"archived: up to row 1 in {file}\n" == done.stdout
        assert "whole: rows 1 to 1" == kept.stdout.splitlines()[0]
        assert (0, "whole: 2 rows") == (rest.returncode, rest.stdout.splitlines()[0])
