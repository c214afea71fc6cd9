"""The server as a process of its own, from settings in the environment."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from galenic_adapters.package import write_metaprompt
from tests.support.serving import eventually, free_port, metaprompt, package
from tests.support.tiny_models import tiny_llama

KEY = re.compile(r"gal_[A-Za-z0-9_-]{43}")


@dataclass
class Process:
    url: str
    running: subprocess.Popen[str]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=300)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home, a tiny backbone, and a zoo of one adapter for it."""
    backbone = tmp_path / "tiny-llama"
    tiny_llama(backbone)
    (backbone / "galenic-backbone.json").write_text('{"name": "tiny-llama", "revision": "0"}')
    zoo = tmp_path / "zoo" / "tiny-llama"
    zoo.mkdir(parents=True)
    (zoo / "metaprompt.safetensors").write_bytes(write_metaprompt(metaprompt()))
    (zoo / "diseases.safetensors").write_bytes(package().data)
    return os.environ | {
        "GALENIC_HOME": str(tmp_path / "home"),
        "GALENIC_BACKBONE": str(backbone),
        "GALENIC_ENGINE": "transformers",
        "GALENIC_ZOO": str(zoo.parent),
    }


@contextmanager
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    port = free_port()
    log = tmp_path / f"{port}.log"
    with log.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "galenic_server"],
            env=environment | {"GALENIC_PORT": str(port)},
            stderr=out,
            text=True,
        )
    process = Process(f"http://127.0.0.1:{port}", running, log)
    try:
        yield process
    finally:
        running.kill()
        running.wait()


def is_ready(process: Process) -> bool:
    assert process.running.poll() is None, process.said()
    try:
        return httpx.get(f"{process.url}/health/ready").is_success
    except httpx.TransportError:
        return False


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
        given = {"GALENIC_ADMIN_KEY": "a-long-enough-secret"}
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            mine = {"authorization": "Bearer a-long-enough-secret"}
            assert httpx.get(f"{server.url}/admin/v1/keys", headers=mine, timeout=60).is_success
            assert not KEY.findall(server.said())
            assert given["GALENIC_ADMIN_KEY"] not in server.said()


class TestTheEnd:
    def test_by_sigterm_lets_a_running_request_finish(
        self, environment: dict[str, str], tmp_path: Path
    ):
        """
        Nothing that was accepted is lost, and the process ends with 0.
        """
        given = {"GALENIC_ADMIN_KEY": "a-long-enough-secret"}
        with started(environment | given, tmp_path) as server:
            eventually(lambda: is_ready(server))
            mine = {"authorization": "Bearer a-long-enough-secret"}
            replies = []

            def ask() -> None:
                body = {"documents": [{"text": "He has gout."}] * 8, "max_tokens": 64}
                replies.append(
                    httpx.post(f"{server.url}/v1/ner", json=body, headers=mine, timeout=60)
                )

            asking = threading.Thread(target=ask)
            asking.start()
            threading.Event().wait(0.3)
            assert 0 == server.stop()
            asking.join()

        assert [200] == [reply.status_code for reply in replies]


class TestAStartThatCannotSucceed:
    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"GALENIC_BACKBONE": "/nowhere"}, "/nowhere is no model folder"),
            ({"GALENIC_ZOO": "/nowhere"}, "`galenic train` makes one for tiny-llama@0"),
            ({"GALENIC_PORT": "never"}, "GALENIC_PORT"),
        ],
    )
    def test_says_why_in_one_line(
        self, environment: dict[str, str], tmp_path: Path, setting: dict[str, str], said: str
    ):
        """
        And ends with 1; no traceback.
        """
        command = [sys.executable, "-m", "galenic_server"]
        done = subprocess.run(
            command, env=environment | setting, capture_output=True, text=True, check=False
        )

        assert 1 == done.returncode
        assert said in done.stderr
        assert "Traceback" not in done.stderr
