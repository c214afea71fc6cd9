"""
What every command that asks a server shares: where it is, the key, and how a refusal is told.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from galenic_client import Client

Url = Annotated[
    str | None, typer.Option("--url", envvar="GALENIC_URL", help="Where the server is.")
]
Key = Annotated[str | None, typer.Option("--key", envvar="GALENIC_API_KEY", help="Your API key.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose; an admin may name any.")]
Etag = Annotated[
    str | None, typer.Option("--etag", help="Only if it is still this, as `alias get` told.")
]


PIPED_WIDTH = 250


@contextmanager
def asking(url: str | None, key: str | None) -> "Iterator[Client]":
    """A client for one command; what the server refuses ends the command with its words."""
    from galenic_client import Client
    from galenic_client.errors import ApiError, GalenicError

    try:
        with Client(url, api_key=key) as client:
            yield client
    except GalenicError as error:
        faults = error.faults if isinstance(error, ApiError) else []
        for fault in faults:
            typer.secho(f"{fault['path']}: {fault['problem']}", err=True)
        fail(error)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong in our own words ends the command with them."""
    from galenic_adapters.errors import GalenicError

    try:
        yield
    except GalenicError as error:
        fail(error)


def fail(error: object) -> None:
    typer.secho(f"galenic: {error}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1) from None


def show(*columns: str, rows: Iterator[tuple[str, ...]]) -> None:
    """A table without lines, never cut where no person reads it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)
