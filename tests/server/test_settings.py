"""What an operator may set, and what is said of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from galenic_server.environment import listing, unknown
from galenic_server.settings import GPU, Settings


class TestASetting:
    @pytest.mark.parametrize("name", Settings.model_fields)
    def test_is_described_in_a_sentence(self, name: str):
        """
        Every field says what it does.
        """
        description = Settings.model_fields[name].description or ""

        assert description[:1].isupper()
        assert description.endswith(".")

    def test_is_listed_with_value_and_default(self):
        """
        Its description stands below.
        """
        lines = list(listing(Settings(port=8100)))
        at = lines.index("GALENIC_PORT = 8100  (default 8000)")

        assert "    The port to bind; 0 takes any free one." == lines[at + 1]
        assert 2 * len(Settings.model_fields) == len(lines)

    def test_may_be_several_files(self, tmp_path: Path):
        """
        They stand with commas between them, in the environment and in the list.
        """
        one, other = tmp_path / "one", tmp_path / "other"
        settings = Settings(metaprompt=f"{one}, {other}")

        assert (one, other) == settings.metaprompt
        assert (one,) == Settings(metaprompt=one).metaprompt
        assert f"GALENIC_METAPROMPT = {one},{other}  (default unset)" in listing(settings)

    def test_that_is_secret_is_not_shown(self):
        """
        Neither in the list nor in the settings' own text; a database's address may hold a password.
        """
        url = "postgresql://galenic:hunter2@database/galenic"
        settings = Settings(database_url=url, secret="hunter2" * 5, admin_key="hunter2")

        assert url == settings.database
        assert "hunter2" not in "".join(listing(settings)) + repr(settings)


class TestABatchInvariantServer:
    def test_computes_in_float32_on_a_cpu(self):
        """
        There vLLM has no batch-invariant kernels; on a GPU the number type stays.
        """
        invariant = "bfloat16" if GPU.exists() else "float32"

        assert "bfloat16" == Settings().engine_dtype
        assert invariant == Settings(batch_invariant=True).engine_dtype


class TestOrigins:
    def test_are_named_with_commas_between(self):
        settings = Settings(cors_origins="https://ehr.example.org, http://localhost:3000")

        assert ("https://ehr.example.org", "http://localhost:3000") == settings.cors_origins

    @pytest.mark.parametrize("origin", ["ehr.example.org", "https://a/", "https://*.a", "ftp://a"])
    def test_that_are_none_are_refused(self, origin: str):
        """
        Browsers send scheme, host and port; anything else would never match.
        """
        with pytest.raises(ValidationError, match="is no origin: https://host"):
            Settings(cors_origins=origin)


class TestAMistypedVariable:
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("GALENIC_CONTEXT_TOKEN", "did you mean GALENIC_CONTEXT_TOKENS?"),
            ("galenic_prot", "did you mean GALENIC_PORT?"),
            ("GALENIC_XYZZY", "`galenic settings` lists all"),
        ],
    )
    def test_is_named_with_the_closest_real_one(self, name: str, told: str):
        """
        Its value is not repeated.
        """
        assert [f"{name} is no setting; {told}"] == list(unknown({name: "4096"}))

    def test_is_none_of_kubernetes(self):
        """
        Pods beside a Service called galenic get its address in variables with our prefix.
        """
        links = {
            "GALENIC_PORT": "tcp://10.96.12.7:80",
            "GALENIC_PORT_80_TCP": "tcp://10.96.12.7:80",
            "GALENIC_PORT_80_TCP_ADDR": "10.96.12.7",
            "GALENIC_SERVICE_HOST": "10.96.12.7",
            "GALENIC_SERVICE_PORT_HTTP": "80",
        }

        assert [] == list(unknown(links))
        assert 8000 == Settings(port=links["GALENIC_PORT"]).port

    def test_is_none_that_something_reads(self):
        """
        Settings in any case, what the setup and the client read, and what is not ours.
        """
        known = ("GALENIC_PORT", "galenic_home", "GALENIC_API_KEY", "GALENIC_CACHE", "PATH")

        assert [] == list(unknown(dict.fromkeys(known, "x")))


def test_the_command_lists_and_warns():
    """
    `galenic settings` prints the list, and names on stderr what it does not know or cannot read.
    """
    given = {"GALENIC_PORT": "8123", "GALENIC_METAPROMPT": "a,b", "GALENIC_CONTEXT_TOKEN": "1"}
    command = [sys.executable, "-m", "galenic_adapters.cli", "settings"]
    good, bad = (
        subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        for env in (given, {"GALENIC_PORT": "eighty"})
    )

    assert 0 == good.returncode
    assert "GALENIC_PORT = 8123  (default 8000)" in good.stdout
    assert "GALENIC_METAPROMPT = a,b  (default unset)" in good.stdout
    assert "GALENIC_CONTEXT_TOKEN is no setting; did you mean" in good.stderr
    assert 1 == bad.returncode
    assert "galenic: GALENIC_PORT: Input should be a valid integer" in bad.stderr
