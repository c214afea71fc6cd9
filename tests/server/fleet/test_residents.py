"""What a server holds from its start on."""

from pathlib import Path

import pytest

from galenic_server.tenancy.keys import Role
from tests.server.registry.test_bulk import line
from tests.support.registry import ner
from tests.support.serving import Running, eventually, make_parts, package, serving


def resident(running: Running) -> set[str]:
    engine = running.parts.service.engine
    return set(engine._prompts)  # type: ignore[attr-defined]  # of the transformers engine


def shared_and_asked(running: Running) -> str:
    """The digest of a shared adapter, which south asked twice and north once."""
    made = running.publish("galenic", "common", package())
    for tenant in ("south", "north", "south"):
        ner(running, tenant, "common")
    residents = running.parts.replica.residents
    eventually(lambda: len(residents.hottest()) == 2)
    eventually(lambda: residents.hottest()[0][0] == "south")
    return str(made["digest"])


class TestAStart:
    def test_seats_what_the_store_holds(self, backbone: str, tmp_path: Path):
        """
        Eight slots: those asked lately and then the newest are there when the server is ready; an
        older one is not, and answers when it is asked.
        """
        digests = {}
        with serving(make_parts(backbone, tmp_path)) as server:
            for seed in range(10):
                made = server.publish("north", f"a-{seed}", package(seed=seed))
                digests[made["name"]] = made["digest"]
            asked = ner(server, "north", "a-1")["adapter"]["digest"]
            eventually(lambda: server.parts.trail.chain.latest(1)[0]["action"] == "answer")
        with serving(make_parts(backbone, tmp_path)) as server:
            seated = resident(server)
            late = ner(server, "north", "a-0")["adapter"]["digest"]

        assert {asked, *(digests[f"a-{seed}"] for seed in range(3, 10))} == seated
        assert digests["a-0"] == late

    def test_knows_who_asked_what_most(self, backbone: str, tmp_path: Path):
        """
        By tenant, as the prefix cache does: a shared adapter is warm for whoever asked it.
        """
        with serving(make_parts(backbone, tmp_path)) as server:
            digest = shared_and_asked(server)
            pairs = server.parts.replica.residents.hottest()

        assert [("south", digest), ("north", digest)] == pairs

    def test_runs_the_prompts_through_that_were_asked_most(
        self, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        with serving(make_parts(backbone, tmp_path)) as server:
            digest = shared_and_asked(server)
        parts = make_parts(backbone, tmp_path, prewarm=1)
        warmed = []

        async def warm(tenant: str, digest: str) -> None:
            warmed.append((tenant, digest))

        monkeypatch.setattr(parts.service.engine, "warm", warm)
        with serving(parts):
            eventually(lambda: warmed)

        assert [("south", digest)] == warmed


class TestAnotherReplica:
    def test_seats_a_bulk_that_it_hears_of(self, backbone: str, tmp_path: Path):
        """
        Before any of it is asked for.
        """
        places = [make_parts(backbone, tmp_path, port=port) for port in (1, 2)]
        with serving(places[0]) as one, serving(places[1]) as other:
            packages = [package(seed=seed) for seed in range(5)]
            body = b"".join(line(f"a-{i}", made.data) for i, made in enumerate(packages))
            chief = one.client("north", Role.TENANT_ADMIN)
            chief.post("/admin/v1/adapters", content=body).raise_for_status()
            wanted = {made.digest for made in packages}
            eventually(lambda: wanted <= resident(other), 20)
