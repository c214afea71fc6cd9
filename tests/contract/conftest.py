"""A PostgreSQL for the whole run, started on first use; stores on it and on SQLite."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from galenic_server.registry.store import Store
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/galenic.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.emptied_database()


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[[], Store]]:
    """Opens one more replica's store on the same database."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.open(url))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()
