"""What is installed: its list, its licences, and the search for known holes in it."""

import csv
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from galenic_adapters.doctor import Machine
from tests.support.tools import ROOT, tools

SIX = "six==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"
HOLE = {
    "id": "PYSEC-0000-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "six"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
            "versions": ["1.17.0"],
        }
    ],
}


@pytest.fixture(scope="module")
def build() -> Path:
    """The folder into which `make sbom` writes."""
    tools()
    subprocess.run([ROOT / "deploy/sbom"], check=True, capture_output=True)
    return ROOT / "build"


class TestTheList:
    def test_names_what_runs_with_its_version(self, build):
        """
        Each component has the version that is installed, and a package URL to look it up by.
        """
        listed = json.loads((build / "sbom.cdx.json").read_text())
        urls = {found["name"].lower(): found["purl"] for found in listed["components"]}
        vllm = Machine.look().vllm

        assert ("CycloneDX", "galenic") == (
            listed["bomFormat"],
            listed["metadata"]["component"]["name"],
        )
        for name in (vllm, "torch", "fastapi", "transformers"):
            assert urls[name].startswith(f"pkg:pypi/{name}@{version(name).partition('+')[0]}")

    def test_leaves_nothing_out(self, build):
        listed = json.loads((build / "sbom.cdx.json").read_text())
        names = {found["name"].lower().replace("_", "-") for found in listed["components"]}

        # Asked of another process: some packages put copies of others on the path once imported.
        look = "from galenic_adapters.doctor import Machine; print(*Machine.look().packages)"
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)

        assert "torch" in done.stdout.split()
        assert set(done.stdout.split()) - names <= {"galenic"}

    def test_gives_each_a_licence(self, build):
        """
        As far as its authors stated one.
        """
        rows = csv.DictReader((build / "licences.csv").read_text().splitlines(keepends=True))
        licences = {row["Name"]: row["License"] for row in rows}

        assert "MIT" == licences["fastapi"]
        unstated = {"oss-harmony", "cuda-toolkit"}
        assert unstated >= {name for name in licences if licences[name] == "UNKNOWN"}


class Osv(BaseHTTPRequestHandler):
    """Answers as osv.dev does: a hole in six, none in others."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        holes = [HOLE] if asked["package"]["name"] == self.server.holed else []  # type: ignore[attr-defined]
        body = json.dumps({"vulns": holes} if holes else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    server.holed = ""  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever).start()
    yield server
    server.shutdown()
    server.server_close()


class TestTheSearchForHoles:
    @staticmethod
    def _audit(folder: Path, url: str) -> "subprocess.CompletedProcess[str]":
        """Search in one pinned package."""
        (folder / "deploy/requirements").mkdir(parents=True)
        (folder / "deploy/requirements/cpu.txt").write_text(SIX)
        shutil.copy(ROOT / "deploy/audit", folder / "deploy/audit")
        (folder / ".venv-tools").symlink_to(tools())
        return subprocess.run(
            [folder / "deploy/audit"],
            env={"PATH": "/usr/bin:/bin", "GALENIC_OSV_URL": url, "HOME": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_finds_one(self, tmp_path, osv):
        osv.holed = "six"

        done = self._audit(tmp_path, f"http://127.0.0.1:{osv.server_port}")

        assert 1 == done.returncode
        assert "PYSEC-0000-1" in done.stdout

    def test_finds_none(self, tmp_path, osv):
        done = self._audit(tmp_path, f"http://127.0.0.1:{osv.server_port}")

        assert 0 == done.returncode, done.stderr
        assert "No known vulnerabilities found" in done.stderr

    def test_that_could_not_look_is_no_success(self, tmp_path):
        """
        It says so, and why; `make check` goes on then, `make audit` fails.
        """
        done = self._audit(tmp_path, "http://127.0.0.1:9/")

        assert 3 == done.returncode
        assert "NOT SCANNED for known holes: http://127.0.0.1:9/ cannot be asked" in done.stderr
        assert "refused" in done.stderr
