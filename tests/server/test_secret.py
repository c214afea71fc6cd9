"""The server's secrets: strong, nobody else's, and replaced without losing anything."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import SHARED
from galenic_server.registry.store import Store
from galenic_server.secret import keep_private, parts_of, read_secrets
from galenic_server.tenancy.keyring import Keyring
from galenic_server.tenancy.keys import Role

STRONG, OTHER = "correct horse battery staple 2026", "another horse; not a single battery"


class TestASecretOfTheHome:
    def test_is_made_once_for_this_user(self, tmp_path: Path):
        """
        256 bits that only the server's user can read, the same at the next start.
        """
        (secret,) = read_secrets(tmp_path / "home", None)

        assert 32 == len(secret)
        assert (secret,) == read_secrets(tmp_path / "home", None)
        assert 0o600 == stat.S_IMODE((tmp_path / "home" / "secret").stat().st_mode)

    @pytest.mark.parametrize("data", [b"", b"\0" * 32, b"short"])
    def test_is_refused_if_it_is_weak(self, tmp_path: Path, data: bytes):
        """
        As after a power cut, or made by hand.
        """
        path = tmp_path / "secret"
        path.write_bytes(data)
        path.chmod(0o600)

        with pytest.raises(BadInput, match="at least 32 and 8"):
            read_secrets(tmp_path, None)

    def test_is_refused_if_others_can_read_it(self, tmp_path: Path):
        """
        It would open every tenant to every user of the machine.
        """
        read_secrets(tmp_path, None)
        (tmp_path / "secret").chmod(0o604)

        with pytest.raises(BadInput, match="chmod 600"):
            read_secrets(tmp_path, None)

    def test_is_not_alone_in_being_kept_from_others(self, tmp_path: Path):
        """
        A database that was there before is closed to them too.
        """
        (tmp_path / "galenic.db").touch(0o644)
        (tmp_path / "galenic.db").chmod(0o644)
        keep_private(tmp_path)

        assert 0o640 == stat.S_IMODE((tmp_path / "galenic.db").stat().st_mode)

    def test_is_replaced_by_moving_it_aside(self, tmp_path: Path):
        """
        The next start makes another one, and goes on verifying by the old one.
        """
        (old,) = read_secrets(tmp_path, None)
        (tmp_path / "secret").rename(tmp_path / "secret.old-2026")
        new, kept = read_secrets(tmp_path, None)

        assert old == kept != new


class TestAGivenSecret:
    def test_may_be_several(self, tmp_path: Path):
        """
        With commas between them, the newest first.
        """
        both = read_secrets(tmp_path, f"{STRONG}, {OTHER}")

        assert (STRONG.encode(), OTHER.encode()) == both
        assert [] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("text", ["a", "", "a" * 64, f"{STRONG},a", f"{STRONG},"])
    def test_is_refused_if_somebody_could_guess_it(self, text: str):
        """
        Short, of one letter, or with an empty one at the end; the message does not repeat it.
        """
        with pytest.raises(BadInput, match="openssl rand") as refused:
            parts_of("GALENIC_ADMIN_KEY", text)

        assert STRONG not in str(refused.value)

    @pytest.mark.parametrize("name", ["GALENIC_ADMIN_KEY", "GALENIC_SECRET"])
    def test_stops_the_start_if_it_is_weak(self, tmp_path: Path, name: str):
        """
        In one line that names the variable.
        """
        home = {"GALENIC_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "galenic_server"]
        done = subprocess.run(
            command, env=home | {name: "b"}, capture_output=True, text=True, check=False
        )

        assert 1 == done.returncode
        assert f"galenic: {name}: has 1 bytes" in done.stderr
        assert "Traceback" not in done.stderr


class TestAKey:
    def test_outlives_the_secret_it_was_made_under(self, tmp_path: Path):
        """
        As long as that one is still among the secrets; new ones are made under the first.
        """
        store = Store.open(f"sqlite:///{tmp_path}/galenic.db")

        def keyring(*secrets: bytes) -> Keyring:
            return Keyring(store.keys, store.tenants, store.changes, secrets=secrets)

        old, _ = keyring(b"old").create("north", Role.CALLER)
        new, _ = keyring(b"new", b"old").create("north", Role.CALLER)
        rotated, done = keyring(b"new", b"old"), keyring(b"new")

        assert all(rotated.find(key) and rotated.recall(key) for key in (old, new))
        assert done.find(old) is None
        assert done.find(new) is not None
        store.close()

    def test_of_the_environment_may_be_several(self, tmp_path: Path):
        """
        So that a new one can be given out before the old one ends.
        """
        store = Store.open(f"sqlite:///{tmp_path}/galenic.db")
        keys = Keyring(
            store.keys, store.tenants, store.changes, secrets=[b"s"], admin_keys=[STRONG, OTHER]
        )
        found = [keys.find(text) for text in (STRONG, OTHER)]

        assert [(SHARED, Role.ADMIN)] * 2 == [(one.tenant, one.role) for one in found if one]
        assert keys.find(STRONG + "x") is None
        store.close()
