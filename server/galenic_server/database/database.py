"""
Opens the SQL database by URL, migrates it, and translates its failures into our errors.
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
_alembic = Lock()  # Alembic keeps the running migration in a module's global


class Database:
    """Opens transactions on SQLite or PostgreSQL by `reading` and `writing`; thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(is_writing=True)
        self._notes = engine.execution_options(is_writing=True, is_note=True)
        self.before_commit: Callable[[sa.Connection], None] = lambda db: None

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at *url* and migrate it; replicas may do so at the same time."""
        database = cls(_engine(_parsed(url)))
        with database.writing() as db:
            _migrate(db)
        return database

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.begin() as db:
            yield db

    @contextmanager
    def writing(self, *, is_act: bool = True) -> Iterator[sa.Connection]:
        """
        Open a write transaction; on SQLite, writers queue.

        Without *is_act* it is the server's own note, which is not audited. SQLite waits for the
        disk for acts only: a power cut may lose the last notes, never an act.
        """
        with _translated(), (self._writer if is_act else self._notes).begin() as db:
            yield db
            if is_act:
                self.before_commit(db)

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Make an insert that supports ``on_conflict`` clauses, which both dialects have."""
        return sqlite.insert(table) if self._engine.name == "sqlite" else postgresql.insert(table)

    def insert_new(self, db: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert *row* if it is new, and tell whether it was; waits for other writers of it."""
        insert = self.insert(table).values(row).on_conflict_do_nothing()
        return db.execute(insert.returning(*table.primary_key)).first() is not None

    def close(self) -> None:
        self._engine.dispose()


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except exc.ArgumentError:
        raise BadInput("database_url", "is not a database URL") from None  # may hold a password
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise BadInput("database_url", f"{url.drivername!r} is neither sqlite nor postgresql")
    return url


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(
            url,
            hide_parameters=True,  # keeps rows out of error messages
            pool_size=10,
            max_overflow=30,
            pool_timeout=WAIT_SECONDS,
            pool_pre_ping=True,  # so that no request fails because the database was restarted
            connect_args={
                "connect_timeout": WAIT_SECONDS,
                "tcp_user_timeout": WAIT_SECONDS * 1000,  # for networks that drop packets
            },
        )
    if not url.database or url.database == ":memory:":
        raise BadInput("database_url", "names no SQLite file; an in-memory store would be lost")
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
    connection.isolation_level = None  # the driver begins no transactions; `_begin_sqlite` does
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(db: sa.Connection) -> None:
    """Begin a transaction; a writer takes its lock at once, since a reader cannot wait for it."""
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
def _translated() -> Iterator[None]:
    """Raise `Unavailable` for a database that is away, busy or full, without address or rows."""
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
