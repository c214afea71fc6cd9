"""
Commands for aliases (list, get, set, promote, rollback, drop) and for sharing.
"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from galenic_adapters.cli.options import Etag, Key, Tenant, Url, asking, fail, show

if TYPE_CHECKING:
    from galenic_client import Client
    from galenic_client.types import Alias

app = typer.Typer(help="Aliases: list, get, set, promote, rollback, drop; share.")
Name = Annotated[str, typer.Argument(help="The alias.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until every replica answers by it.")]
WAIT_SECONDS = 60.0


@app.command("list")
def list_(tenant: Tenant = None, url: Url = None, key: Key = None) -> None:
    """List a tenant's aliases."""
    with asking(url, key) as client:
        rows = (
            (
                alias.alias,
                alias.adapter,
                _canary(alias),
                alias.previous or "",
                str(alias.converged),
            )
            for alias in client.aliases(tenant=tenant)
        )
        show("alias", "adapter", "canary", "previous", "converged", rows=rows)


@app.command()
def get(name: Name, tenant: Tenant = None, url: Url = None, key: Key = None) -> None:
    """Print where an alias points, as JSON."""
    with asking(url, key) as client:
        typer.echo(client.get_alias(name, tenant=tenant).model_dump_json(indent=2))


@app.command("set")
def set_(
    name: Name,
    adapter: Annotated[str, typer.Argument(help="name@version")],
    canary: Annotated[
        str | None, typer.Option(help="name@version that answers a part of the requests.")
    ] = None,
    weight: Annotated[int, typer.Option(min=1, max=99, help="Of a hundred requests.")] = 5,
    etag: Etag = None,
    wait: Wait = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Point an alias to a version, with a canary if one is named."""
    beside = (canary, weight) if canary else None
    with asking(url, key) as client:
        etag = etag or _etag(client, name, tenant)
        moved = client.alias(name, adapter, canary=beside, etag=etag, tenant=tenant)
        _tell(client, moved, wait)


@app.command()
def promote(
    name: Name,
    etag: Etag = None,
    wait: Wait = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Let the canary take over the alias."""
    with asking(url, key) as client:
        _tell(client, client.promote(name, etag=etag or "*", tenant=tenant), wait)


@app.command()
def rollback(
    name: Name,
    etag: Etag = None,
    wait: Wait = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Remove the canary; without one, point the alias to its previous version."""
    with asking(url, key) as client:
        _tell(client, client.roll_back(name, etag=etag or "*", tenant=tenant), wait)


@app.command()
def drop(
    name: Name, etag: Etag = None, tenant: Tenant = None, url: Url = None, key: Key = None
) -> None:
    """Drop the alias; the version stays."""
    with asking(url, key) as client:
        client.drop_alias(name, etag=etag or "*", tenant=tenant)


@app.command()
def share(
    name: Annotated[str, typer.Argument(help="An adapter's name, or an alias.")],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="A tenant, or * for all; none: nobody.")
    ] = None,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Let these tenants, and no others, use an adapter or alias as OWNER/NAME."""
    with asking(url, key) as client:
        made = client.share(name, to or [], tenant=tenant)
        typer.echo(f"{made.owner}/{made.name}: {', '.join(made.tenants) or 'nobody else'}")


def _etag(client: "Client", name: str, tenant: str | None) -> str | None:
    """Return the alias's current ETag; None if it does not exist yet."""
    from galenic_client.errors import NotFound

    try:
        return client.get_alias(name, tenant=tenant).etag
    except NotFound:
        return None


def _tell(client: "Client", moved: "Alias", wait: bool) -> None:
    canary = _canary(moved)
    typer.echo(f"{moved.alias} -> {moved.adapter}" + (f", {canary}" if canary else ""))
    if wait:
        _wait(client, moved)
        typer.echo("every replica answers by it")


def _wait(client: "Client", moved: "Alias") -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not (now := client.get_alias(moved.alias, tenant=moved.tenant)).converged:
        if time.monotonic() > until:
            fail(f"not converged after {WAIT_SECONDS:.0f} s: {', '.join(now.waiting_for)}")
        time.sleep(0.1)


def _canary(alias: "Alias") -> str:
    return f"{alias.canary.weight}% {alias.canary.adapter}" if alias.canary else ""
