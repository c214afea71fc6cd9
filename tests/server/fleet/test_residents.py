"""What a server holds from its start on."""

from pathlib import Path

from galenic_server.tenancy.keys import Role
from tests.server.registry.test_bulk import line
from tests.support.registry import ner
from tests.support.serving import Running, eventually, make_parts, package, serving


def resident(running: Running) -> set[str]:
    engine = running.parts.service.engine
    return set(engine.residents)  # type: ignore[attr-defined]  # of the transformers engine


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

    def test_knows_what_was_asked_most(self, backbone: str, tmp_path: Path):
        """
        Requests of all tenants count.
        """
        with serving(make_parts(backbone, tmp_path)) as server:
            digests = [
                server.publish("galenic", name, package(seed=seed))["digest"]
                for seed, name in enumerate(("rare", "common"))
            ]
            for tenant, name in (("south", "rare"), ("south", "common"), ("north", "common")):
                ner(server, tenant, name)
            eventually(lambda: digests[::-1] == server.parts.replica.residents.hottest())


class TestAnotherReplica:
    def test_seats_a_bulk_that_it_hears_of(self, backbone: str, tmp_path: Path):
        """
        It seats them before any is asked for.
        """
        places = [make_parts(backbone, tmp_path, port=port) for port in (1, 2)]
        with serving(places[0]) as one, serving(places[1]) as other:
            packages = [package(seed=seed) for seed in range(5)]
            body = b"".join(line(f"a-{i}", made.data) for i, made in enumerate(packages))
            chief = one.client("north", Role.TENANT_ADMIN)
            chief.post("/admin/v1/adapters", content=body).raise_for_status()
            wanted = {made.digest for made in packages}
            eventually(lambda: wanted <= resident(other), 20)
