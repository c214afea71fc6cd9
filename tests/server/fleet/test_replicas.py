"""Servers over one real PostgreSQL."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres
from tests.support.serving import Running, eventually, make_parts, package, serving


@pytest.fixture
def database() -> Iterator[Postgres]:
    """One of its own, because it is stopped."""
    server = Postgres()
    server.start()
    yield server
    server.close()


class TestTwoReplicas:
    def test_share_adapters_aliases_and_keys(
        self, backbone: str, database: Postgres, tmp_path: Path
    ):
        """
        What is published at one answers at the other at once, by the same digest.
        """
        url = database.new_database()
        parts = [make_parts(backbone, tmp_path / name, database_url=url) for name in "ab"]
        with serving(parts[0]) as one, serving(parts[1]) as other:
            made = one.versions.publish("north", "shared-file", package())
            alias = {"adapter": "shared-file@1"}
            one.admin.put("/admin/v1/aliases/ner?tenant=north", json=alias).raise_for_status()
            body = {"documents": [{"text": "He has gout."}], "max_tokens": 8}
            key = {"authorization": f"Bearer {one.key('north')}"}
            told = [at.client("north").post("/v1/ner", json=body).json() for at in (one, other)]
            across = other.client("north").post("/v1/ner", json=body, headers=key)

        assert [made["digest"]] * 2 == [reply["adapter"]["digest"] for reply in told]
        assert told[0] == told[1]
        assert 200 == across.status_code


class TestADatabaseThatIsAway:
    def test_leaves_resident_adapters_answering(
        self, backbone: str, database: Postgres, tmp_path: Path
    ):
        """
        By keys and names that were seen before; what is not known, and every admin route, is a 503
        with Retry-After. Once it is back everything is, without a restart, and the audit rows of
        the answers meanwhile are there.
        """
        url = database.new_database()
        with serving(make_parts(backbone, tmp_path, database_url=url)) as server:
            server.publish("north", "kept", package())
            server.publish("north", "never-asked", package(seed=1))
            body = {"documents": [{"text": "a"}], "adapter": "kept", "max_tokens": 8}
            north, south = server.client("north"), server.client("south")
            store = server.parts.store
            # A replica that has yet to follow these keys would forget what it has seen till then.
            eventually(lambda: not store.replicas.behind(store.changes.newest()))
            before = north.post("/v1/ner", json=body)
            database.stop()
            time.sleep(2.5)  # longer than a key is fresh
            answers = [north.post("/v1/ner", json=body) for _ in range(3)]
            away = [
                north.post("/v1/ner", json=body | {"adapter": "never-asked"}),
                south.post("/v1/ner", json=body),
                server.admin.get("/admin/v1/adapters"),
                server.admin.put("/admin/v1/aliases/ner?tenant=north", json={"adapter": "kept@1"}),
            ]
            live = north.get("/health/live")
            database.start()
            eventually(lambda: server.admin.get("/admin/v1/adapters").is_success)
            eventually(lambda: num_answers(server) == 4)
            server.parts.trail.chain.verify()

        assert [200] * 4 == [reply.status_code for reply in (before, *answers)]
        assert [before.json()] * 3 == [reply.json() for reply in answers]
        assert [503] * 4 == [reply.status_code for reply in away]
        assert all(reply.headers["retry-after"] for reply in away)
        assert 200 == live.status_code


def num_answers(server: Running) -> int:
    rows = server.parts.trail.chain.rows()
    return sum(record["action"] == "answer" for record, _ in rows)
