"""
The audit chain, verified and exported where the server's database and secret are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galenic_adapters.commands.asking import told

if TYPE_CHECKING:
    from galenic_adapters.audit import Chain

app = typer.Typer(help="The audit chain, read where the server's database and secret are.")

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database", envvar="GALENIC_DATABASE_URL", help="The one in home if unset."),
]
Home = Annotated[
    Path, typer.Option("--home", envvar="GALENIC_HOME", help="Where database and secret lie.")
]
Secret = Annotated[
    str | None, typer.Option("--secret", envvar="GALENIC_SECRET", help="The file in home if unset.")
]
HOME = Path.home() / ".galenic"


@app.command("verify")
def verify_audit(
    head: Annotated[
        str | None, typer.Option(help="NUMBER:MAC noted earlier, which the chain has to hold.")
    ] = None,
    database: DatabaseUrl = None,
    home: Home = HOME,
    secret: Secret = None,
) -> None:
    """Read the whole chain; says where it ends, or where it was tampered with (and ends with 1)."""
    from galenic_adapters.audit import Head

    with told(), _chain(database, home, secret) as chain:
        found = chain.verify(Head.parse(head) if head else None)
        typer.echo(f"whole: {found.number:,} rows\nhead: {found}")


@app.command("export")
def export_audit(
    after: Annotated[int, typer.Option(min=0, help="The number of the last row to skip.")] = 0,
    tenant: Annotated[str | None, typer.Option(help="Only what its keys did.")] = None,
    database: DatabaseUrl = None,
    home: Home = HOME,
    secret: Secret = None,
) -> None:
    """Write rows as JSON lines, each with its MAC. Run `verify` first: this only reads."""
    import json

    with told(), _chain(database, home, secret) as chain:
        for record, mac in chain.rows(after):
            if tenant in (None, record.get("tenant")):
                typer.echo(json.dumps(record | {"mac": mac}))


@contextmanager
def _chain(url: str | None, home: Path, secret: str | None) -> "Iterator[Chain]":
    from galenic_adapters.audit import Chain
    from galenic_adapters.database import Database
    from galenic_adapters.errors import NotFound

    file, path = home / "galenic.db", home / "secret"
    if not url and not file.exists():
        raise NotFound(f"no database at {file}: name it by --database or --home")
    if not secret and not path.exists():
        raise NotFound(f"no secret at {path}: give the server's by GALENIC_SECRET or --home")
    database = Database.open(url or f"sqlite:///{file.absolute()}")
    try:
        yield Chain(database, secret.encode() if secret else path.read_bytes())
    finally:
        database.close()
