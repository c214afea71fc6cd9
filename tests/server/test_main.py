"""The server as a process of its own, from settings in the environment."""

import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from galenic_server.audit.chain import Chain
from galenic_server.database.database import Database
from galenic_server.main import assemble
from galenic_server.settings import Settings
from tests.support.process import KEY, Process, environment_in, is_ready, started
from tests.support.serving import eventually
from tests.support.tiny_models import tiny_llama


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_in(tmp_path)


class TestAFreshStart:
    def test_prints_a_key_once_and_answers_by_the_zoo(
        self, environment: dict[str, str], tmp_path: Path
    ):
        """
        The printed request works as pasted. A second start has the same adapters, and no key.
        """
        with started(environment, tmp_path) as first:
            eventually(lambda: is_ready(first) and "curl" in first.said())
            [key] = set(KEY.findall(first.said()))
            pasted = first.said()[first.said().index("curl") : first.said().rindex("'") + 1]
            reply = subprocess.run(
                ["bash", "-c", pasted], capture_output=True, text=True, check=True
            )
            assert '"name":"diseases","version":1' in reply.stdout
            assert 0 == first.stop()
        with started(environment, tmp_path) as second:
            eventually(lambda: is_ready(second))
            mine = {"authorization": f"Bearer {key}"}
            listed = httpx.get(f"{second.url}/admin/v1/adapters", headers=mine, timeout=60).json()[
                "adapters"
            ]
            assert [("diseases", 1)] == [(one["name"], one["version"]) for one in listed]
            assert not KEY.findall(second.said())

    def test_takes_a_key_from_the_environment(self, environment: dict[str, str], tmp_path: Path):
        """
        Then none is made, and none printed.
        """
        given = {"GALENIC_ADMIN_KEY": "a-secret-that-is-long-enough-to-open"}
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            mine = {"authorization": "Bearer a-secret-that-is-long-enough-to-open"}
            assert httpx.get(f"{server.url}/admin/v1/keys", headers=mine, timeout=60).is_success
            assert not KEY.findall(server.said())
            assert given["GALENIC_ADMIN_KEY"] not in server.said()

    def test_on_a_taken_port_says_so_before_it_makes_a_key(
        self, environment: dict[str, str], tmp_path: Path
    ):
        """
        In one line that names the port, within a moment; nothing was made or loaded.
        """
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            done = subprocess.run(
                [sys.executable, "-m", "galenic_server"],
                env=environment | {"GALENIC_PORT": str(port)},
                capture_output=True,
                text=True,
                timeout=120,
            )

        assert 1 == done.returncode
        assert f"GALENIC_PORT: {port} is taken at 127.0.0.1 by another program" in done.stderr
        assert not KEY.findall(done.stderr)
        assert not (tmp_path / "home" / "galenic.db").exists()

    def test_without_a_metaprompt_serves_what_stands_alone(self, tmp_path: Path):
        """
        It says so, and how one is made.
        """
        (tmp_path / "zoo").mkdir()
        backbone, said = tiny_llama(tmp_path / "tiny-llama"), []
        settings = Settings(
            home=tmp_path, backbone=backbone, engine="transformers", zoo=tmp_path / "zoo"
        )
        parts = assemble(settings, say=said.append)
        parts.store.close()

        assert {} == parts.service.fit.metaprompts
        assert "only adapters that stand alone are served, until `galenic train`" in said[0]


def num_under_way(server: Process) -> float:
    """Documents in the engine, and in line for it."""
    page = httpx.get(f"{server.url}/metrics", timeout=60).text
    counts = re.findall(r"^galenic_(?:running|waiting) (\S+)", page, re.M)
    return sum(map(float, counts))


class TestTheEnd:
    def test_by_sigterm_loses_nothing_that_was_accepted(
        self, environment: dict[str, str], tmp_path: Path
    ):
        """
        Eight requests are under way, most of them in line: all are answered, each has its audit
        row, the process ends with 0, and nobody new is let in meanwhile.
        """
        given = {
            "GALENIC_ADMIN_KEY": "a-secret-that-is-long-enough-to-open",
            "GALENIC_MAX_RUNNING": "4",
        }
        given["GALENIC_DRAIN_SECONDS"] = "200"
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            mine = {"authorization": "Bearer a-secret-that-is-long-enough-to-open"}
            body = {"documents": [{"text": "He has gout."}] * 4, "max_tokens": 80}
            replies = []

            def ask() -> None:
                replies.append(
                    httpx.post(f"{server.url}/v1/ner", json=body, headers=mine, timeout=100)
                )

            asking = [threading.Thread(target=ask) for _ in range(8)]
            for thread in asking:
                thread.start()
            eventually(lambda: num_under_way(server) > 7 * 4, seconds=60)
            ended = server.stop()
            for thread in asking:
                thread.join()
        database = Database.open(f"sqlite:///{tmp_path}/home/galenic.db")
        chain = Chain(database, (tmp_path / "home" / "secret").read_bytes())
        answers = [one for one, _ in chain.rows() if one["action"] == "answer"]
        chain.verify()
        database.close()

        assert 0 == ended
        assert [200] * 8 == [reply.status_code for reply in replies]
        assert [4] * 8 == [row["answers"] for row in answers]
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


class TestAStartThatCannotSucceed:
    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"GALENIC_BACKBONE": "/nowhere"}, "/nowhere is no model folder"),
            ({"GALENIC_ZOO": "/nowhere"}, "GALENIC_ZOO: Path does not point to a directory"),
            ({"GALENIC_METAPROMPT": "/nowhere,/nor"}, "nowhere: cannot be read: No such file"),
            ({"GALENIC_PORT": "never"}, "GALENIC_PORT"),
        ],
    )
    def test_says_why_in_one_line(
        self, environment: dict[str, str], tmp_path: Path, setting: dict[str, str], said: str
    ):
        """
        It ends with 1, and prints no traceback.
        """
        command = [sys.executable, "-m", "galenic_server"]
        done = subprocess.run(
            command, env=environment | setting, capture_output=True, text=True, check=False
        )

        assert 1 == done.returncode
        assert said in done.stderr
        assert "Traceback" not in done.stderr
