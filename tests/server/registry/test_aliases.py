"""Aliases over HTTP: moved, with a canary, held by their ETag; and lent to others."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from galenic_server.tenancy.keys import Role
from tests.support.registry import ANY, ner, point
from tests.support.serving import Running, package


class TestAnAlias:
    def test_moves_answers_from_one_version_to_the_next(self, running: Running):
        """
        Answers move at once, and back again.
        """
        for seed in (300, 301):
            running.publish("clinic", "moving", package(seed=seed))
        told = []
        for version in (1, 2, 1):
            point(running, "live", f"moving@{version}", {} if not told else ANY)
            told.append(ner(running, "clinic", "live")["adapter"]["version"])

        assert [1, 2, 1] == told

    def test_moves_only_from_what_the_mover_saw(self, running: Running):
        """
        Case 32: of two writers with one ETag, the second hears 412; without one, 428.
        """
        for seed in (310, 311):
            running.publish("clinic", "raced", package(seed=seed))
        seen = point(running, "raced-live", "raced@1", {})["etag"]
        url = "/admin/v1/aliases/raced-live?tenant=clinic"
        move, mine = {"adapter": "raced@2"}, {"if-match": seen}
        told = [
            running.admin.put(url, json=move, headers=headers).status_code
            for headers in (mine, mine, {}, {"if-none-match": "*"}, {"if-match": f"W/{seen}"})
        ]
        drops = [
            running.admin.delete(url, headers=headers).status_code
            for headers in ({}, mine, {"if-match": '"x"'})
        ]

        assert [200, 412, 428, 412, 412] == told
        assert [428, 412, 412] == drops
        assert "raced@2" == running.admin.get(url).json()["adapter"]

    def test_in_a_race_has_one_winner(self, running: Running):
        """
        Case 32: eight at once.
        """
        running.publish("clinic", "racing", package(seed=312))
        seen = point(running, "racing-live", "racing@1", {})["etag"]
        url = "/admin/v1/aliases/racing-live?tenant=clinic"

        def move(_: int) -> int:
            body = {"adapter": "racing@1"}
            return running.admin.put(url, json=body, headers={"if-match": seen}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert [200] + [412] * 7 == sorted(pool.map(move, range(8)))

    def test_holds_its_version_against_deletion(self, running: Running):
        """
        Until it is dropped.
        """
        running.publish("clinic", "held", package(seed=320))
        point(running, "hold", "held@1", {})
        url, version = (
            "/admin/v1/aliases/hold?tenant=clinic",
            "/admin/v1/adapters/held/1?tenant=clinic",
        )
        kept = running.admin.delete(version)
        dropped = running.admin.delete(url, headers=ANY)
        gone = running.admin.delete(version)

        assert [412, 204, 204] == [kept.status_code, dropped.status_code, gone.status_code]
        assert 404 == running.admin.get(url).status_code

    def test_to_nothing_is_not_found(self, running: Running):
        """
        It cannot point to a version that is not there, nor to another tenant's.
        """
        reply = running.admin.put("/admin/v1/aliases/x?tenant=clinic", json={"adapter": "none@1"})

        assert 404 == reply.status_code


class TestACanary:
    def test_answers_its_part_and_says_so(self, running: Running):
        """
        Which version answers goes by the request's id; the reply names it.
        """
        made = [running.publish("clinic", "bird", package(seed=seed)) for seed in (330, 331)]
        canary = {"canary": {"adapter": "bird@2", "weight": 30}}
        point(running, "perch", "bird@1", {}, **canary)
        body = {"documents": [{"text": "a"}], "max_tokens": 8, "adapter": "perch"}
        caller, told = running.client("clinic"), {}
        for id_ in [f"note-{i}" for i in range(40)] * 2:
            reply = caller.post("/v1/ner", json=body, headers={"x-request-id": id_})
            used = reply.json()["adapter"]
            assert used["digest"] == made[used["version"] - 1]["digest"]
            assert used["digest"] == reply.headers["x-galenic-digest"]
            assert told.setdefault(id_, used["version"]) == used["version"]

        assert 3 < list(told.values()).count(2) < 22

    def test_takes_over_in_one_call_and_goes_back_in_one(self, running: Running):
        """
        Both want to know which alias they turn.
        """
        for seed in (340, 341):
            running.publish("clinic", "turn", package(seed=seed))
        point(running, "turning", "turn@1", {}, canary={"adapter": "turn@2", "weight": 1})
        url = "/admin/v1/aliases/turning/{}?tenant=clinic"
        blind = [running.admin.post(url.format(way)) for way in ("promote", "rollback")]
        promoted = running.admin.post(url.format("promote"), headers=ANY).json()
        again = running.admin.post(url.format("promote"), headers=ANY)
        back = running.admin.post(url.format("rollback"), headers=ANY).json()

        assert [428, 428] == [reply.status_code for reply in blind]
        assert ("turn@2", None, "turn@1") == tuple(
            promoted[name] for name in ("adapter", "canary", "previous")
        )
        assert 412 == again.status_code
        assert "turn@1" == back["adapter"]

    @pytest.mark.parametrize("weight", [0, 100, -5, 1.5, "10", None])
    def test_has_a_weight_of_a_hundred(self, running: Running, weight):
        """
        Anything else is a 422.
        """
        body = {"adapter": "turn@1", "canary": {"adapter": "turn@2", "weight": weight}}
        reply = running.admin.put("/admin/v1/aliases/y?tenant=clinic", json=body)

        assert 422 == reply.status_code


class TestSharing:
    def test_lends_answers_to_whom_it_names(self, running: Running):
        """
        Borrowers name it owner/name, also in lists of models. They never get the package, and
        others see nothing.
        """
        made = running.publish("clinic", "lent", package(seed=600))
        url, body = "/admin/v1/shares/lent?tenant=clinic", {"tenants": ["friend"]}
        running.admin.put(url, json=body).raise_for_status()
        told = ner(running, "friend", "clinic/lent")
        ids = {
            tenant: [one["id"] for one in running.client(tenant).get("/v1/models").json()["data"]]
            for tenant in ("friend", "stranger")
        }
        ask = {"documents": [{"text": "a"}], "adapter": "clinic/lent"}
        strange = running.client("stranger").post("/v1/ner", json=ask)
        nobodys = running.client("stranger").post("/v1/ner", json=ask | {"adapter": "clinic/none"})
        taken = running.client("friend", Role.TENANT_ADMIN).get("/admin/v1/adapters/lent/1/package")
        running.admin.put(url, json={"tenants": []}).raise_for_status()
        after = running.client("friend").post("/v1/ner", json=ask)

        assert made["digest"] == told["adapter"]["digest"]
        assert "clinic/lent@1" in ids["friend"]
        assert not [one for one in ids["stranger"] if "lent" in one]
        assert [404, 404, 404, 404] == [one.status_code for one in (strange, nobodys, taken, after)]
        assert strange.text.replace("lent", "none") == nobodys.text
