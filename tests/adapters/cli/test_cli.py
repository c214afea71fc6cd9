"""The ``galenic`` command against a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner, Result

from galenic_adapters.cli.main import app
from galenic_adapters.package.signature import Policy, Signatures, Use
from galenic_adapters.refs import SHARED
from galenic_server.tenancy.keys import Role
from tests.support.serving import Running, package


def run(
    *words: str, running: Running, role: Role = Role.CALLER, stdin: str | bytes | None = None
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

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_is_no_part_of_what_stdin_brings(
        self, running: Running, encoding: str
    ):
        done = run("ask", "ner", "-", running=running, stdin="He has gout.".encode(encoding))

        assert 0 == done.exit_code, done.output

    def test_stdin_in_another_encoding_is_refused_in_a_line(self, running: Running):
        done = run("ask", "ner", "-", running=running, stdin="Antécédents".encode("latin-1"))

        assert (1, "galenic: stdin: is not UTF-8 at byte 3") == (
            done.exit_code,
            done.stderr.strip(),
        )

    def test_ends_with_the_servers_own_words(self, running: Running):
        """
        The command ends with 1, and prints no traceback.
        """
        done = run("ask", "ner", "a", "-a", "nothing", running=running)

        assert 1 == done.exit_code
        assert "no adapter 'nothing'" in done.stderr
        assert "Traceback" not in done.output

    @pytest.mark.parametrize("words", [("nli", "a"), ("qa", "a", "--option", "A")])
    def test_says_what_a_task_needs(self, running: Running, words: tuple[str, ...]):
        """
        It says so before anything is sent.
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

    def test_dry_run_tells_every_fault_and_writes_nothing(self, running: Running, tmp_path: Path):
        """
        It ends with 1 if there is one.
        """
        good, bad = tmp_path / "dry.safetensors", tmp_path / "bad.safetensors"
        good.write_bytes(package(seed=4).data)
        bad.write_bytes(package(template_version=7, metaprompt="sha256:" + "0" * 64).data)
        admin = {"running": running, "role": Role.ADMIN}
        fine = run("push", str(good), "--tenant", "north", "--dry-run", **admin)
        refused = run("push", str(bad), "--tenant", "north", "--dry-run", **admin)
        pushed = run("push", str(bad), "--tenant", "north", **admin)

        assert (0, 1, 1) == (fine.exit_code, refused.exit_code, pushed.exit_code)
        assert "would be accepted" in fine.stdout
        for path in ("manifest.template_version", "manifest.metaprompt"):
            assert path in refused.stdout
            assert 1 == pushed.stderr.count(path)
        assert "dry@" not in run("adapters", "list", "--tenant", "north", **admin).stdout

    def test_of_a_folder_publishes_all_and_tells_what_was_refused(
        self, running: Running, tmp_path: Path
    ):
        """
        It names adapters after their files, and finds them there when they are sent again. It ends
        with 1 if one failed.
        """
        admin = {"running": running, "role": Role.ADMIN}
        for seed in range(3):
            (tmp_path / f"of-folder-{seed}.safetensors").write_bytes(package(seed=seed).data)
        once, again = (run("push", str(tmp_path), "--tenant", "north", **admin) for _ in range(2))
        (tmp_path / "zz.safetensors").write_bytes(package(template_version=7).data)
        failed = run("push", str(tmp_path), "--tenant", "north", **admin)
        named = run("push", str(tmp_path), "--name", "one", **admin)

        assert "3 new, 0 there already, 0 failed" in once.stdout
        assert "0 new, 3 there already, 0 failed" in again.stdout
        assert "zz.safetensors: manifest.template_version" in failed.stderr
        assert (0, 0, 1, 2) == (
            once.exit_code,
            again.exit_code,
            failed.exit_code,
            named.exit_code,
        )


class TestAliases:
    def test_turn_by_one_command_each(self, running: Running):
        """
        A canary is set, promoted and rolled back; waiting ends when all replicas answer by it.
        """
        for seed in (5, 6):
            running.publish("turned", "wheel", package(seed=seed))
        admin = {"running": running, "role": Role.ADMIN}
        tenant = ("--tenant", "turned")
        made = run("alias", "set", "live", "wheel@1", "--canary", "wheel@2", *tenant, **admin)
        told = json.loads(run("alias", "get", "live", *tenant, **admin).stdout)
        stale = run("alias", "promote", "live", "--etag", '"1"', *tenant, **admin)
        promoted = run("alias", "promote", "live", "--etag", told["etag"], *tenant, **admin)
        back = run("alias", "rollback", "live", "--wait", *tenant, **admin)
        moved = run("alias", "set", "live", "wheel@2", *tenant, **admin)
        listed = run("alias", "list", *tenant, **admin)
        shared = run("alias", "share", "live", "--to", "south", *tenant, **admin)
        dropped = run("alias", "drop", "live", *tenant, **admin)

        assert "live -> wheel@1, 5% wheel@2\n" == made.stdout
        assert 1 == stale.exit_code
        assert "live -> wheel@2\n" == promoted.stdout
        assert "live -> wheel@1\nevery replica answers by it\n" == back.stdout
        assert "live -> wheel@2\n" == moved.stdout
        assert "wheel@2" in listed.stdout
        assert "turned/live: south\n" == shared.stdout
        assert 0 == dropped.exit_code


class TestTenants:
    def test_leave_and_arrive_as_a_file(self, running: Running, tmp_path: Path):
        """
        The file holds deleted numbers too, and deleted versions come back before that.
        """
        for seed in (7, 8):
            running.publish("exported", "x", package(seed=seed))
        admin = {"running": running, "role": Role.ADMIN}
        file = tmp_path / "tenant.jsonl"
        deleted = run("adapters", "delete", "x@1", "--tenant", "exported", **admin)
        back = run("adapters", "undelete", "x@1", "--tenant", "exported", **admin)
        again = run("adapters", "delete", "x@1", "--tenant", "exported", **admin)
        out = run("tenants", "export", "exported", str(file), **admin)
        into = run("tenants", "import", "imported", str(file), **admin)
        bounded = run("tenants", "set", "imported", "--max-adapters", "5", **admin)
        listed = run("tenants", "list", **admin)
        fleet = run("tenants", "replicas", **admin)

        codes = [one.exit_code for one in (deleted, back, again, out, into, bounded, listed, fleet)]
        assert [0] * 8 == codes
        assert "1 adapters, 1 deleted numbers, 0 aliases, 0 shares\n" == into.stdout
        assert 5 == json.loads(bounded.stdout)["max_adapters"]
        assert "imported" in listed.stdout

    def test_change_in_what_is_named_alone(self, running: Running):
        """
        Suspending leaves the quota, lifting it too; `usual` drops a bound of its own.
        """
        admin = {"running": running, "role": Role.ADMIN}

        def set_(*words: str) -> tuple[int | None, int | None, bool]:
            done = run("tenants", "set", "named", *words, **admin)
            assert 0 == done.exit_code, done.output
            told = json.loads(done.stdout)
            return told["max_adapters"], told["max_bytes"], told["suspended"] is not None

        assert (500, 10**9, False) == set_("--max-adapters", "500", "--max-bytes", "1000000000")
        assert (500, 10**9, True) == set_("--suspended")
        assert (500, 10**9, True) == set_()
        assert (None, 10**9, True) == set_("--max-adapters", "usual")
        assert (None, 0, True) == set_("--max-bytes", "0")
        assert (None, 0, False) == set_("--not-suspended")
        assert 2 == run("tenants", "set", "named", "--max-bytes", "many", **admin).exit_code


class TestLimits:
    def test_are_shown_set_and_cleared(self, running: Running):
        """
        What is not named stays; `none` is no bound; cleared, the server's hold again.
        """
        admin = {"running": running, "role": Role.ADMIN}

        def limits(*words: str) -> dict:
            done = run("limits", *words, **admin)
            assert 0 == done.exit_code, done.output
            return json.loads(done.stdout)

        usual = limits("show", "bounded")
        some = limits("set", "bounded", "--requests-per-minute", "60", "--weight", "2")
        more = limits("set", "bounded", "--concurrent", "none")
        cleared = run("limits", "clear", "bounded", **admin)
        again = run("limits", "clear", "bounded", **admin)

        assert usual | {"requests_per_minute": 60, "weight": 2.0} == some
        assert some | {"concurrent": None} == more
        assert (0, 1) == (cleared.exit_code, again.exit_code)
        assert usual == limits("show", "bounded")


class TestAnAdapter:
    def test_is_shown_and_listed_among_the_models(self, running: Running):
        """
        An adapter is shown by version or by name, with its labels; what a key may name is a table.
        """
        running.publish("north", "shown", package(labels=("Finding",), seed=41))
        admin = {"running": running, "role": Role.ADMIN}
        tenant = ("--tenant", "north")
        by_name, by_version = (
            json.loads(run("adapters", "show", ref, *tenant, **admin).stdout)
            for ref in ("shown", "shown@1")
        )
        models = run("models", running=running)

        states = {shown.pop("state") for shown in (by_name, by_version)}
        assert {"checked", "ready"} >= states  # ready once every replica has it
        assert by_name == by_version
        assert ["Finding"] == by_name["manifest"]["labels"]
        [line] = [one for one in models.stdout.splitlines() if one.startswith(" shown@1")]
        assert ["shown@1", "ner", "Finding", "north"] == line.split()


class TestWhatCannotBeSent:
    def test_is_said_without_a_traceback(self, running: Running):
        """
        An argument in Latin-1.
        """
        environment = os.environ | {"GALENIC_URL": running.url, "GALENIC_API_KEY": "gal_x"}
        latin = "Antécédents".encode("latin-1")
        command = [sys.executable, "-m", "galenic_adapters.cli", "ask", "ner", latin]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        assert (1, "galenic: what was given is not UTF-8 text\n") == (done.returncode, done.stderr)

    @pytest.mark.parametrize("name", ["Org/Discharge", "a b"])
    def test_as_a_name_is_told_what_a_name_is(self, running: Running, tmp_path: Path, name: str):
        """
        A name that holds a slash, which is in no route, is refused in the same words.
        """
        file = tmp_path / "a.safetensors"
        file.write_bytes(package(seed=42).data)
        done = run("push", str(file), "--name", name, running=running, role=Role.ADMIN)

        assert 1 == done.exit_code
        assert "a-z, 0-9 and, within" in done.stderr

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"GALENIC_API_KEY": ""}, "the server wants a key: give --key, or set GALENIC_API_KEY"),
            ({"GALENIC_URL": "127.0.0.1:8000"}, "does not begin with http:// or https://"),
        ],
    )
    def test_without_key_or_address_is_told_in_the_commands_words(
        self, running: Running, given: dict[str, str], told: str
    ):
        """
        What to set, not which header to send.
        """
        environment = {"GALENIC_URL": running.url, "GALENIC_API_KEY": "x"} | given
        done = CliRunner().invoke(app, ["models"], env=environment)

        assert 1 == done.exit_code
        assert told in done.stderr

    def test_to_an_address_that_ends_as_openais_do_is_sent(self, running: Running):
        """
        An address may end with /v1.
        """
        environment = {"GALENIC_URL": running.url + "/v1", "GALENIC_API_KEY": running.key("north")}

        assert 0 == CliRunner().invoke(app, ["models"], env=environment).exit_code


class TestSign:
    def test_writes_a_signature_beside_the_package(self, running: Running, tmp_path: Path):
        """
        It signs with a private key in PEM form, and refuses another kind in words.
        """
        key, file = tmp_path / "key.pem", tmp_path / "a.safetensors"
        private = ec.generate_private_key(ec.SECP256R1())
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write_bytes(private.private_bytes(*form))
        file.write_bytes(package(seed=9).data)
        use = ("--for", "north/discharge")
        done = run("sign", str(file), "--with", str(key), *use, running=running)
        key.write_bytes(b"nonsense")
        refused = run("sign", str(file), "--with", str(key), running=running)
        bundle = (tmp_path / "a.safetensors.sig").read_bytes()
        trusting = Signatures(Policy.REQUIRED, {"own": private.public_key()})
        signed = trusting.check(package(seed=9).digest, bundle, Use.of("north/discharge"))

        assert (0, 1) == (done.exit_code, refused.exit_code)
        assert signed is not None
        assert "own" == signed.by


class TestKeys:
    def test_are_made_listed_rotated_ended_and_revoked(self, running: Running):
        """
        The key is printed by create and rotate, and never by list.
        """
        admin = {"running": running, "role": Role.ADMIN}
        made = run("keys", "create", "commanded", "--label", "nightly", "--days", "1", **admin)
        key, id_ = made.stdout.split()[0], made.stdout.rsplit("id ", 1)[1].rstrip(")\n")
        new = run("keys", "rotate", id_, "--grace-hours", "0", **admin).stdout
        new_key, new_id = new.split()[0], new.rsplit("id ", 1)[1].rstrip(")\n")
        listed = run("keys", "list", "--tenant", "commanded", **admin)
        found = [running.parts.keys.find(one) is not None for one in (key, new_key)]
        ended = run("keys", "expire", new_id, "--in-hours", "1", **admin)
        revoked = run("keys", "revoke", new_id, **admin)

        assert key.startswith("gal_") and new_key.startswith("gal_")
        assert id_ in listed.stdout
        assert key not in listed.stdout
        assert [False, True] == found
        assert [True, True] == ["(caller of commanded, ends " in one for one in (made.stdout, new)]
        assert (0, 0) == (ended.exit_code, revoked.exit_code)
        assert running.parts.keys.find(new_key) is None


class TestHelp:
    def test_comes_without_loading_anything_heavy(self):
        """
        Neither torch nor the server is imported for it.
        """
        script = (
            "import sys; from galenic_adapters.cli.main import app\n"
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
