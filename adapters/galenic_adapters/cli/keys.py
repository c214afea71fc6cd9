"""
Commands for API keys: create, list, rotate, expire, revoke.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from galenic_adapters.cli.options import Key, Tenant, Url, asking, show

if TYPE_CHECKING:
    from galenic_client.types import NewKey

app = typer.Typer(help="API keys: make, list, rotate, expire, revoke (with an admin's key).")

Role = Literal["admin", "tenant-admin", "caller", "auditor", "metrics"]
KeyId = Annotated[str, typer.Argument(help="Its id, as `keys list` says.")]
Days = Annotated[
    float | None, typer.Option("--days", min=0, help="Ends after; unset, as the server says.")
]


@app.command("create")
def create_key(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[Role, typer.Option(help="What it opens.")] = "caller",
    days: Days = None,
    label: Annotated[str, typer.Option(help="What it is for; one line.")] = "",
    url: Url = None,
    key: Key = None,
) -> None:
    """Make a key, and print it this once."""
    with asking(url, key) as client:
        made = client.create_key(tenant, role, expires=_end(days), label=label)
        _tell(made)


@app.command("list")
def list_keys(tenant: Tenant = None, url: Url = None, key: Key = None) -> None:
    """List keys with their tenants and roles."""
    with asking(url, key) as client:
        rows = (
            (
                found.id,
                found.tenant,
                found.role,
                found.label,
                _day(found.created),
                _day(found.expires),
                _day(found.revoked),
                found.replaced_by or "",
            )
            for found in client.keys(tenant=tenant)
        )
        show(
            *("id", "tenant", "role", "label", "created", "expires", "revoked", "replaced by"),
            rows=rows,
        )


@app.command("rotate")
def rotate_key(
    key_id: KeyId,
    grace_hours: Annotated[
        float, typer.Option(min=0, max=720, help="So long the old one opens on.")
    ] = 24,
    days: Annotated[float | None, typer.Option("--days", min=0, help="Ends after.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """
    Replace a key by a new one, and print that this once.

    Without --days, the new key lasts as long as the old one was made for.
    """
    with asking(url, key) as client:
        seconds = round(grace_hours * 3600)
        made = client.rotate_key(key_id, grace_seconds=seconds, expires=_end(days))
        _tell(made)


@app.command("expire")
def expire_key(
    key_id: KeyId,
    hours: Annotated[float, typer.Option("--in-hours", min=0, help="From now.")] = 0,
    url: Url = None,
    key: Key = None,
) -> None:
    """Set when a key expires."""
    with asking(url, key) as client:
        client.expire_key(key_id, datetime.now(UTC) + timedelta(hours=hours))


@app.command("revoke")
def revoke_key(key_id: KeyId, url: Url = None, key: Key = None) -> None:
    """Revoke a key at once."""
    with asking(url, key) as client:
        client.revoke_key(key_id)


def _tell(made: "NewKey") -> None:
    ends = f"ends {_day(made.expires)} UTC" if made.expires else "never ends"
    typer.echo(f"{made.key}  ({made.role} of {made.tenant}, {ends}, id {made.id})")


def _end(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
