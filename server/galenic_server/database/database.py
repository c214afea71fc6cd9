"""
The SQL database under the store: opened by URL, migrated, and its failures told in our words.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from galenic_adapters.errors import BadInput, Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x67616C656E6963  # "galenic", for PostgreSQL's advisory locks
WAIT_SECONDS = 10
_alembic = Lock()  # Alembic keeps the migration under way in a module's global


class Database:
    """SQLite or PostgreSQL: `reading` and `writing` are transactions, safe from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(is_writing=True)
        self._notes = engine.execution_options(is_writing=True, is_note=True)
        self.before_commit: Callable[[sa.Connection], None] = lambda db: None

    @classmethod
    def open(cls, url: str) -> Self:
        """The database at *url*, its tables brought up to date; replicas may do so at once."""
        database = cls(_engine(_parsed(url)))
        with database.writing() as db:
            _migrate(db)
        return database

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with _told(), self._engine.begin() as db:
            yield db

    @contextmanager
    def writing(self, *, is_act: bool = True) -> Iterator[sa.Connection]:
        """
        All of it or nothing. On SQLite one writer at a time; the others wait their turn.

        What *is_act* no more than a note of the server's own is no part of anybody's act. SQLite
        waits for the disk with acts only: a power cut may take the last notes, never an act.
        """
        with _told(), (self._writer if is_act else self._notes).begin() as db:
            yield db
            if is_act:
                self.before_commit(db)

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that can say what to do on conflict; both dialects speak alike."""
        return sqlite.insert(table) if self._engine.name == "sqlite" else postgresql.insert(table)

    def insert_new(self, db: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Whether *row* was new and is written; waits for a writer of the same row to finish."""
        insert = self.insert(table).values(row).on_conflict_do_nothing()
        return db.execute(insert.returning(*table.primary_key)).first() is not None

    def close(self) -> None:
        self._engine.dispose()


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except exc.ArgumentError:
        raise BadInput("database_url", "is not a database URL") from None  # it may hold a password
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise BadInput("database_url", f"{url.drivername!r} is neither sqlite nor postgresql")
    return url


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(
            url,
            hide_parameters=True,  # an error's message holds no row
            pool_size=10,
            max_overflow=30,
            pool_timeout=WAIT_SECONDS,
            pool_pre_ping=True,  # a restarted database costs no request
            connect_args={
                "connect_timeout": WAIT_SECONDS,
                "tcp_user_timeout": WAIT_SECONDS * 1000,  # a network that swallows packets
            },
        )
    if not url.database or url.database == ":memory:":
        raise BadInput("database_url", "names no SQLite file; the store lasts")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=WAIT_SECONDS,
        connect_args={"timeout": WAIT_SECONDS},
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin_sqlite` does
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(db: sa.Connection) -> None:
    """A writer takes its lock at once: one that reads first could not wait for it."""
    options = db.get_execution_options()
    writes = options.get("is_writing", False)
    if writes:
        waits = "NORMAL" if options.get("is_note") else "FULL"
        db.exec_driver_sql(f"PRAGMA synchronous = {waits}")
    db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(db: sa.Connection) -> None:
    if db.dialect.name == "postgresql":
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _alembic:
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Unavailable("the database belongs to a newer release of galenic") from error


@contextmanager
def _told() -> Iterator[None]:
    """A database that is away, busy or full, in words without its address and its rows."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError) as error:
        if _is_full(error.orig):
            raise Unavailable("the database has no room left; nothing was written") from error
        raise Unavailable("the database is not answering; nothing was written") from error
    except exc.TimeoutError as error:
        raise Unavailable("the database has no connection free; nothing was written") from error


def _is_full(error: Any) -> bool:
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return code in ("SQLITE_FULL", "53100")
