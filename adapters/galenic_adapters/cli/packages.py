"""
Commands for packages and versions: sign, push, list, show, delete, undelete.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galenic_adapters.cli.options import Key, Tenant, Url, asking, reporting_errors, show
from galenic_adapters.refs import split_ref

if TYPE_CHECKING:
    from galenic_client import Client

app = typer.Typer(help="Adapters on a server: list, show, delete, undelete.")
Existing = typer.Argument(exists=True, dir_okay=False)
RefName = Annotated[str, typer.Argument(help="name@version")]


def push(
    package: Annotated[Path, typer.Argument(exists=True, help="A package, or a folder of them.")],
    name: Annotated[str | None, typer.Option(help="Its name there; the file's if unset.")] = None,
    version: Annotated[int | None, typer.Option(help="Its version; the next if unset.")] = None,
    alias: Annotated[str | None, typer.Option(help="Then point this alias to it.")] = None,
    signature: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="As `galenic sign` makes it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell every fault.")] = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """
    Publish an adapter's package; it answers requests at once. For a folder, publish all its
    packages under their files' names, each with the signature in PACKAGE.sig beside it; versions
    that exist already are kept.
    """
    if package.is_dir():
        if any((name, version, alias, signature, dry_run)):
            raise typer.BadParameter("of a folder, only all packages by their files' names")
        _push_folder(package, tenant, url, key)
        return
    name = name or package.stem
    with asking(url, key) as client:
        if dry_run:
            _try_out(client, name, package, version, tenant, signature)
            return
        made = client.push(name, package, version=version, tenant=tenant, signature=signature)
        ref = f"{made.name}@{made.version}"
        typer.echo(f"{ref} of {made.tenant}: {made.digest}, {made.num_bytes:,} bytes")
        if made.signature.is_verified:
            typer.echo(f"signature of {made.signature.signed_by} verified")
        if alias:
            point(client, alias, ref, tenant)
            typer.echo(f"{alias} -> {ref}")


def _push_folder(folder: Path, tenant: str | None, url: str | None, key: str | None) -> None:
    from galenic_client.types import ToPush

    files = sorted(folder.glob("*.safetensors"))
    files = [file for file in files if not file.stem.startswith("metaprompt")]
    if not files:
        raise typer.BadParameter(f"{folder} holds no package (*.safetensors)")
    signatures = (file.with_name(file.name + ".sig") for file in files)
    packages = (
        ToPush(file.stem, file, signature=signature if signature.is_file() else None)
        for file, signature in zip(files, signatures, strict=True)
    )
    counts = Counter[str]()
    with asking(url, key) as client:
        for result in client.push_many(packages, tenant=tenant):
            counts[result.state] += 1
            if result.error:
                _tell_refusal(files[result.line - 1].name, result.error)
    typer.echo(f"{counts['new']} new, {counts['there']} there already, {counts['failed']} failed")
    if counts["failed"]:
        raise typer.Exit(1)


def _tell_refusal(file: str, error: dict[str, Any]) -> None:
    problems = [f"{fault['path']}: {fault['problem']}" for fault in error.get("faults", [])]
    for problem in problems or [error["message"]]:
        typer.secho(f"{file}: {problem}", err=True)


def _try_out(
    client: "Client",
    name: str,
    package: Path,
    version: int | None,
    tenant: str | None,
    signature: Path | None,
) -> None:
    trial = client.try_out(name, package, version=version, tenant=tenant, signature=signature)
    for fault in trial.faults:
        typer.echo(f"{fault.path}: {fault.problem}")
    if not trial.accepted:
        raise typer.Exit(1)
    typer.echo(f"{name}: {trial.digest} would be accepted")


def point(client: "Client", alias: str, ref: str, tenant: str | None) -> None:
    """Point *alias* to *ref*, wherever it points now."""
    from galenic_client.errors import NotFound

    try:
        etag = client.get_alias(alias, tenant=tenant).etag
    except NotFound:
        etag = None
    client.alias(alias, ref, etag=etag, tenant=tenant)


def sign(
    package: Annotated[Path, Existing],
    private_key: Annotated[
        Path, typer.Option("--with", exists=True, dir_okay=False, help="A PEM file, P-256 to 521.")
    ],
    for_: Annotated[
        str | None, typer.Option("--for", help="TENANT/NAME: good there only, and from now on.")
    ] = None,
) -> None:
    """Sign a package as OpenSSF Model Signing does; writes PACKAGE.sig."""
    from galenic_adapters.package import signature as signatures

    with reporting_errors():
        use = signatures.Use.of(for_) if for_ else None
        bundle = signatures.sign(package.read_bytes(), package.name, private_key.read_bytes(), use)
    target = package.with_name(package.name + ".sig")
    target.write_text(bundle)
    typer.echo(str(target))


@app.command("list")
def list_(
    deleted: Annotated[bool, typer.Option("--deleted", help="Those to bring back.")] = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """List a tenant's adapters."""
    with asking(url, key) as client:
        found = client.list(tenant=tenant, deleted=deleted)
        rows = (
            (f"{a.name}@{a.version}", a.state, a.digest[:19], a.signature.signed_by or "")
            for a in found
        )
        show("adapter", "state", "digest", "signed by", rows=rows)


@app.command("show")
def show_one(
    ref: Annotated[str, typer.Argument(help="name@version, or a name: what it means just now.")],
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show one adapter as JSON: its state, labels, scores and signature."""
    with reporting_errors():
        name, version = split_ref(ref) if "@" in ref else (ref, None)
    with asking(url, key) as client:
        typer.echo(client.describe(name, version, tenant=tenant).model_dump_json(indent=2))


@app.command()
def delete(
    ref: RefName,
    purge: Annotated[bool, typer.Option("--purge", help="For good, at once.")] = False,
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete a version; it can be brought back for a while."""
    with reporting_errors():
        name, version = split_ref(ref)
    with asking(url, key) as client:
        client.delete(name, version, tenant=tenant, purge=purge)


@app.command()
def undelete(ref: RefName, tenant: Tenant = None, url: Url = None, key: Key = None) -> None:
    """Bring back a deleted version, as it was."""
    with reporting_errors():
        name, version = split_ref(ref)
    with asking(url, key) as client:
        client.undelete(name, version, tenant=tenant)
