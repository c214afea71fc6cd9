"""
A real PostgreSQL for tests: its own cluster in a temporary folder, spoken to over a Unix socket.

PostgreSQL refuses to run as root, so root lends it the account ``postgres`` or ``nobody``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from tests.support.debian import install

SETTINGS = {"fsync": "off", "listen_addresses": "", "max_connections": "200"}
START_SECONDS = 60
END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Postgres:
    """One cluster; `stop` and `start` it at will, `close` it in the end."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._as = _account()
        self._folder = Path(tempfile.mkdtemp(prefix="galenic-pg-", dir="/tmp"))  # short: a socket
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._port = "5432"
        self._reused = ""
        self._lend(self._folder)
        init = [
            "initdb",
            "-D",
            self._data,
            "-U",
            "galenic",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        assert self._spawn(init).wait(START_SECONDS) == 0, self._log

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://galenic@/{database}?host={self._folder}&port={self._port}"

    def new_database(self, folder: Path | None = None) -> str:
        """The URL of an empty database; its tables lie in *folder* if there is one."""
        name = f"test{next(self._numbers)}"
        create = SQL("CREATE DATABASE {}").format(Identifier(name))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if folder is not None:
                self._lend(folder)
                place = SQL("CREATE TABLESPACE {} LOCATION {}")
                connection.execute(place.format(Identifier(name), Literal(str(folder))))
                create += SQL(" TABLESPACE {}").format(Identifier(name))
            connection.execute(create)
        return self.url(name)

    def emptied_database(self) -> str:
        """
        The URL of one database for all tests in turn, emptied of what the last one left there.

        A database is 300 files, which take longer to make and to remove than a test.
        """
        self._reused = self._reused or self.new_database()
        with psycopg.connect(self._reused, autocommit=True) as connection:
            connection.execute(END_OTHERS)
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self._reused

    def start(self, **more: str) -> None:
        """Start with *more* of its settings."""
        self._port = more.get("port", self._port)
        settings = {**SETTINGS, "unix_socket_directories": str(self._folder), **more}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._spawn(["postgres", "-D", self._data, *words])
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log
            assert time.monotonic() < deadline, self._log
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as when its machine fails; it recovers on the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def keep(self, file: Path) -> str:
        """Copy a file to where the server may read it; returns its path there."""
        copy = self._folder / file.name
        shutil.copy(file, copy)
        self._lend(copy)
        return str(copy)

    def _lend(self, path: Path) -> None:
        if "user" in self._as:
            os.chown(path, self._as["user"], self._as["group"])

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _log(self) -> str:
        return (self._folder / "log").read_text()

    def _spawn(self, words: list[str]) -> "subprocess.Popen[bytes]":
        command = [str(self._programs / words[0]), *words[1:]]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self._folder)}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", env=environment, **self._as
            )


def _account() -> dict[str, Any]:
    """Whom to run as: oneself, unless one is root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _programs() -> Path:
    """The folder of PostgreSQL's programs, installed from Debian where there is none."""
    if found := _find():
        return found
    if os.geteuid() != 0:
        raise RuntimeError("these tests need PostgreSQL: apt-get install postgresql")
    _install()
    found = _find()
    assert found, "Debian's postgresql package brings initdb"
    return found


def _find() -> Path | None:
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    return max(
        (initdb.parent for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: int(folder.parent.name),
        default=None,
    )


def _install() -> None:
    no_cluster = Path("/etc/postgresql-common/createcluster.conf")
    no_cluster.parent.mkdir(parents=True, exist_ok=True)
    no_cluster.write_text("create_main_cluster = false\n")  # ours is enough; start no other
    install("postgresql")
