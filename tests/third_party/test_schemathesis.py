"""Our OpenAPI document, and whether the server keeps it."""

import re
from pathlib import Path

import pytest

from tests.support.serving import ADMIN_KEY, Running
from tests.third_party.tools import SUITES, Tools

pytestmark = pytest.mark.third_party

EXAMPLES = 8  # of each operation and phase; with a fixed seed


class TestTheDocument:
    def test_is_kept_by_the_server(
        self, server: Running, tools: Tools, record_property, tmp_path: Path
    ):
        """
        All of schemathesis' checks over every operation, with the key of an admin: no server error,
        no undocumented status, type or method, nothing wrong accepted, nothing open without a key.
        """
        said = tools.run(
            "st",
            "--config-file",
            SUITES / "schemathesis.toml",
            "run",
            f"{server.url}/openapi.json",
            "--checks=all",
            f"--header=Authorization: Bearer {ADMIN_KEY}",
            "--seed=1",
            f"--max-examples={EXAMPLES}",
            "--continue-on-failure",
            cwd=tmp_path,
            PYTHONPATH=str(SUITES),
            SCHEMATHESIS_HOOKS="schemathesis_hooks",
        )
        record_property("schemathesis", re.findall(r"\d+ generated.*", said)[-1])

        assert "failure" not in said.splitlines()[-1]
