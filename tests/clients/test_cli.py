"""The ``galenic`` command against a real server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from galenic_adapters.cli import app
from galenic_adapters.keys import Role
from galenic_adapters.refs import SHARED
from tests.support.serving import Running, package


def run(
    *words: str, running: Running, role: Role = Role.CALLER, stdin: str | None = None
) -> Result:
    tenant = SHARED if role is Role.ADMIN else "north"
    environment = {"GALENIC_URL": running.url, "GALENIC_API_KEY": running.key(tenant, role)}
    return CliRunner().invoke(app, list(words), env=environment, input=stdin)


class TestAsk:
    @pytest.mark.parametrize(
        ("words", "answer"),
        [
            (("ner", "He has gout."), "entities"),
            (("re", "He has gout."), "relations"),
            (("qa", "Which?", "--option", "A=one", "--option", "B=two"), "answer"),
            (("qa", "Which?", "--context", "Here."), "answer"),
            (("nli", "He has gout.", "--hypothesis", "He is ill."), "label"),
            (("summarize", "-"), "summary"),
        ],
    )
    def test_prints_the_reply_as_json(self, running: Running, words: tuple[str, ...], answer: str):
        """
        Every task, from arguments or from stdin.
        """
        done = run("ask", *words, running=running, stdin="He has gout.")

        assert 0 == done.exit_code, done.output
        assert answer in json.loads(done.stdout)["documents"][0]

    def test_ends_with_the_servers_own_words(self, running: Running):
        """
        And with 1; no traceback.
        """
        done = run("ask", "ner", "a", "-a", "nothing", running=running)

        assert 1 == done.exit_code
        assert "no adapter 'nothing'" in done.stderr
        assert "Traceback" not in done.output

    @pytest.mark.parametrize("words", [("nli", "a"), ("qa", "a", "--option", "A")])
    def test_says_what_a_task_needs(self, running: Running, words: tuple[str, ...]):
        """
        Before anything is sent.
        """
        assert 2 == run("ask", *words, running=running).exit_code


class TestPush:
    def test_publishes_a_file_and_points_an_alias_to_it(self, running: Running, tmp_path: Path):
        """
        Its name is the file's unless another is given.
        """
        file = tmp_path / "by-command.safetensors"
        file.write_bytes(package(seed=3).data)
        done = run(
            "push", str(file), "--tenant", "north", "--alias", "new",
            running=running, role=Role.ADMIN,
        )  # fmt: skip

        assert 0 == done.exit_code, done.output
        assert "by-command@1 of north: sha256:" in done.stdout
        assert 0 == run("ask", "ner", "a", "-a", "new", running=running).exit_code


class TestKeys:
    def test_are_made_listed_and_revoked(self, running: Running):
        """
        The key is printed by create, and never by list.
        """
        made = run("keys", "create", "commanded", running=running, role=Role.ADMIN).stdout
        key, id_ = made.split()[0], made.rsplit("id ", 1)[1].rstrip(")\n")
        listed = run("keys", "list", "--tenant", "commanded", running=running, role=Role.ADMIN)
        revoked = run("keys", "revoke", id_, running=running, role=Role.ADMIN)

        assert key.startswith("gal_")
        assert id_ in listed.stdout
        assert key not in listed.stdout
        assert 0 == revoked.exit_code
        assert running.parts.keys.find(key) is None


class TestHelp:
    def test_comes_without_loading_anything_heavy(self):
        """
        Neither torch nor the server is imported for it.
        """
        script = (
            "import sys; from galenic_adapters.cli import app\n"
            "try: app(['--help'])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'galenic_server', 'httpx'}\n"
            "print(*sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )

        assert "" == done.stdout.splitlines()[-1]
        for command in ("serve", "train", "adapt", "evaluate", "push", "ask", "keys", "doctor"):
            assert command in done.stdout
