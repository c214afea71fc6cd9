"""A server whose database stands on a disk that is full: not one byte can be written."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from galenic_adapters.package.file import package_digest
from tests.support.disk import Disk, small_disk
from tests.support.postgres import Postgres
from tests.support.serving import Running, eventually, make_parts, package, serving

KIND = {"content-type": "application/octet-stream"}
NER = {"documents": [{"text": "He has gout."}], "adapter": "kept", "max_tokens": 8}
NORTH = {"tenant": "north"}


@pytest.fixture
def disk() -> Iterator[Disk]:
    with small_disk(num_mib=24) as made:
        yield made


@pytest.fixture
def sqlite(disk: Disk) -> str:
    return f"sqlite:///{disk.folder}/galenic.db"


@pytest.fixture
def postgresql(disk: Disk) -> Iterator[str]:
    server = Postgres()
    try:
        server.start()
        yield server.new_database(disk.folder)
    finally:
        server.close()


def upload(server: Running, seed: int) -> tuple[int, str]:
    made = package(seed=seed).data
    reply = server.admin.put(
        f"/admin/v1/adapters/late-{seed}", params=NORTH, content=made, headers=KIND
    )
    return reply.status_code, reply.text


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
class TestAFullDisk:
    def test_takes_no_upload_and_leaves_the_answers(
        self, kind: str, request: pytest.FixtureRequest, disk: Disk, backbone: str, tmp_path: Path
    ):
        """
        The upload is a 503 that says why, and no part of it is there; what was there is whole, and
        answers. With room again everything is taken, and the audit rows of the answers are there.
        """
        url = request.getfixturevalue(kind)
        with serving(make_parts(backbone, tmp_path / "home", database_url=url)) as server:
            server.publish("north", "kept", package())
            north = server.client("north")
            before = north.post("/v1/ner", json=NER)
            disk.fill()
            told = [upload(server, 1)]
            while told[-1][0] == 201:  # into pages that the database had already
                told.append(upload(server, len(told) + 1))
            listed = server.admin.get("/admin/v1/adapters", params=NORTH | {"limit": "1000"})
            packages = [
                server.admin.get(f"/admin/v1/adapters/{one['name']}/1/package", params=NORTH)
                for one in listed.json()["adapters"]
            ]
            answers = [north.post("/v1/ner", json=NER) for _ in range(3)]
            disk.free()
            eventually(lambda: upload(server, 1000)[0] == 201, seconds=20)
            eventually(lambda: num_answers(server) == 4, seconds=20)
            server.parts.trail.chain.verify()

        assert 503 == told[-1][0]
        assert "the database has no room left; nothing was written" in told[-1][1]
        assert [200] * 4 == [reply.status_code for reply in (before, *answers)]
        assert [before.json()] * 3 == [reply.json() for reply in answers]
        assert len(told) == len(packages)  # the one from before, and all but the last
        assert all(one.headers["etag"] == f'"{package_digest(one.content)}"' for one in packages)


def test_a_full_disk_for_temporary_files_is_a_503(
    running: Running, disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    """
    A bulk that does not fit is told to come again; nothing else is disturbed.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.fill()
    body = b" " * (4 << 20)
    replies = [
        running.admin.post("/admin/v1/adapters?tenant=north", content=body),
        running.admin.put("/admin/v1/tenants/north/archive", content=body),
    ]

    assert [503, 503] == [reply.status_code for reply in replies]
    assert all("no room" in reply.text for reply in replies)
    assert all(reply.headers["retry-after"] for reply in replies)


def num_answers(server: Running) -> int:
    return sum(record["action"] == "answer" for record, _ in server.parts.trail.chain.rows())
