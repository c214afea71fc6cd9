"""
Tenants: listed, bounded, suspended, exported and imported; and the fleet's replicas.
"""

from pathlib import Path
from typing import Annotated

import typer

from galenic_adapters.cli.options import Key, Url, asking, show, told
from galenic_adapters.files import write_whole

app = typer.Typer(help="Tenants: list, set, export, import; replicas.")
Name = Annotated[str, typer.Argument(help="The tenant.")]
PIECE_BYTES = 1 << 20


@app.command("list")
def list_(url: Url = None, key: Key = None) -> None:
    """List tenants with what each keeps."""
    with asking(url, key) as client:
        rows = (
            (
                one.tenant,
                f"{one.num_adapters:,}",
                f"{one.num_bytes:,}",
                "suspended" if one.suspended else "",
            )
            for one in client.tenants()
        )
        show("tenant", "adapters", "bytes", "", rows=rows)


@app.command("set")
def set_(
    name: Name,
    max_adapters: Annotated[int | None, typer.Option(min=0, help="The usual if unset.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="The usual if unset.")] = None,
    suspended: Annotated[bool, typer.Option("--suspended", help="Its keys open nothing.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make a tenant, or set all that is its own."""
    with asking(url, key) as client:
        made = client.set_tenant(
            name, max_adapters=max_adapters, max_bytes=max_bytes, suspended=suspended
        )
        typer.echo(made.model_dump_json(indent=2))


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where it goes; JSON lines.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Everything of a tenant but its keys, in one file."""
    with told(), asking(url, key) as client:
        write_whole(file, client.export(name))
        typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command("import")
def import_(
    name: Name,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    url: Url = None,
    key: Key = None,
) -> None:
    """Bring in what an export gave; twice is as once."""
    with asking(url, key) as client, file.open("rb") as archive:
        pieces = iter(lambda: archive.read(PIECE_BYTES), b"")
        brought = client.bring(name, pieces)
        typer.echo(
            f"{brought.num_adapters} adapters, {brought.num_deleted} deleted numbers,"
            f" {brought.num_aliases} aliases, {brought.num_shares} shares"
        )


@app.command()
def replicas(
    forget: Annotated[str | None, typer.Option(help="Wait no longer for this one.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """List the servers on the database, or give up one that died."""
    with asking(url, key) as client:
        if forget:
            client.forget_replica(forget)
        rows = (
            (one.id, one.place, f"{one.heard:%H:%M:%S}", str(one.seen)) for one in client.replicas()
        )
        show("id", "place", "heard", "seen", rows=rows)
