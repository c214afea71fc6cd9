"""
Commands for tenants (list, set, export, import) and for the fleet's replicas.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galenic_adapters.cli.options import (
    Key,
    Url,
    asking,
    changed,
    number_or,
    reporting_errors,
    show,
)
from galenic_adapters.files import write_whole

if TYPE_CHECKING:
    from galenic_client import Client

app = typer.Typer(help="Tenants: list, set, export, import; replicas.")
Name = Annotated[str, typer.Argument(help="The tenant.")]
USUAL = number_or("usual")
PIECE_BYTES = 1 << 20


@app.command("list")
def list_(url: Url = None, key: Key = None) -> None:
    """List tenants with their storage and quotas."""
    with asking(url, key) as client:
        rows = (
            (
                tenant.tenant,
                f"{tenant.num_adapters:,}",
                f"{tenant.num_bytes:,}",
                _bound(tenant.max_adapters),
                _bound(tenant.max_bytes),
                "suspended" if tenant.suspended else "",
            )
            for tenant in client.tenants()
        )
        show("tenant", "adapters", "bytes", "max adapters", "max bytes", "", rows=rows)


@app.command("set")
def set_(
    name: Name,
    max_adapters: Annotated[Any, typer.Option(help="Versions it may keep.", **USUAL)] = None,
    max_bytes: Annotated[Any, typer.Option(help="Bytes it may keep.", **USUAL)] = None,
    suspended: Annotated[
        bool | None,
        typer.Option("--suspended/--not-suspended", help="Whether its keys open nothing."),
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Create a tenant, or change the settings that are named; the others stay as they are."""
    with asking(url, key) as client:
        given = changed(
            _now(client, name), max_adapters=max_adapters, max_bytes=max_bytes, suspended=suspended
        )
        typer.echo(client.set_tenant(name, **given).model_dump_json(indent=2))


def _now(client: "Client", name: str) -> dict[str, Any]:
    """Return the tenant's own settings; none if it does not exist yet."""
    from galenic_client.errors import NotFound

    try:
        tenant = client.tenant(name)
    except NotFound:
        return {}
    own = tenant.model_dump(include={"max_adapters", "max_bytes"})
    return own | {"suspended": tenant.suspended is not None}


def _bound(most: int | None) -> str:
    return "usual" if most is None else f"{most:,}"


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where it goes; JSON lines.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Export everything of a tenant but its keys into one file."""
    with reporting_errors(), asking(url, key) as client:
        write_whole(file, client.export(name))
        typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command("import")
def import_(
    name: Name,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    url: Url = None,
    key: Key = None,
) -> None:
    """Import an exported tenant; importing twice changes nothing more."""
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
            (replica.id, replica.place, f"{replica.heard:%H:%M:%S}", str(replica.seen))
            for replica in client.replicas()
        )
        show("id", "place", "heard", "seen", rows=rows)
