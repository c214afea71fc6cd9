"""Servers over one real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres
from tests.support.serving import eventually, make_parts, package, serving


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
            made = one.publish("north", "shared-file", package())
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
    def test_is_a_503_and_the_server_lives_on(
        self, backbone: str, database: Postgres, tmp_path: Path
    ):
        """
        With Retry-After; and once it is back everything is, without a restart.
        """
        url = database.new_database()
        with serving(make_parts(backbone, tmp_path, database_url=url)) as server:
            server.publish("north", "kept", package())
            body = {"documents": [{"text": "a"}], "adapter": "kept", "max_tokens": 8}
            north = server.client("north")
            assert 200 == north.post("/v1/ner", json=body).status_code
            database.stop()
            away = [north.post("/v1/ner", json=body), server.admin.get("/admin/v1/adapters")]
            live = north.get("/health/live")
            database.start()
            eventually(lambda: north.post("/v1/ner", json=body).is_success)

        assert [503, 503] == [reply.status_code for reply in away]
        assert all(reply.headers["retry-after"] for reply in away)
        assert 200 == live.status_code
