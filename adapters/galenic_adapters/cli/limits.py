"""
Commands for a tenant's rate limits: show, set, clear.
"""

from typing import Annotated, Any

import typer

from galenic_adapters.cli.options import Key, Url, asking, changed, number_or

app = typer.Typer(help="What a tenant may use: show, set, clear.")
Name = Annotated[str, typer.Argument(help="The tenant.")]
UNBOUNDED = number_or("none")


@app.command()
def show(name: Name, url: Url = None, key: Key = None) -> None:
    """Show a tenant's limits: its own, else the server's."""
    with asking(url, key) as client:
        typer.echo(client.limits(name).model_dump_json(indent=2))


@app.command("set")
def set_(
    name: Name,
    requests_per_minute: Annotated[
        Any, typer.Option(help="Requests a minute.", **UNBOUNDED)
    ] = None,
    tokens_per_minute: Annotated[
        Any, typer.Option(help="Tokens a minute, of texts and answers.", **UNBOUNDED)
    ] = None,
    concurrent: Annotated[Any, typer.Option(help="Requests open at once.", **UNBOUNDED)] = None,
    weight: Annotated[
        float | None, typer.Option(help="Its share of the engine beside another's.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Set some of a tenant's limits; the others stay as they are."""
    with asking(url, key) as client:
        limits = changed(
            client.limits(name).model_dump(exclude={"tenant"}),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrent=concurrent,
            weight=weight,
        )
        typer.echo(client.set_limits(name, **limits).model_dump_json(indent=2))


@app.command()
def clear(name: Name, url: Url = None, key: Key = None) -> None:
    """Drop a tenant's own limits; the server's apply again."""
    with asking(url, key) as client:
        client.clear_limits(name)
