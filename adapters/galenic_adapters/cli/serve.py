"""
Commands that run the server's programs, or look at this machine.
"""

import os
import sys
from typing import Annotated, NoReturn

import typer

from galenic_adapters.cli.options import BackboneName


def serve(
    backbone: BackboneName = None,
    engine: Annotated[str | None, typer.Option(help="vllm or transformers.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to bind.")] = None,
) -> None:
    """Serve until interrupted. Every setting is also GALENIC_<NAME> in the environment."""
    chosen = {"BACKBONE": backbone, "ENGINE": engine, "HOST": host, "PORT": port}
    given = {f"GALENIC_{name}": str(value) for name, value in chosen.items() if value is not None}
    os.environ.update(given)
    _become("galenic_server")


def bench(context: typer.Context) -> None:
    """Measure this machine: adapters beside the bare backbone and vLLM's own ways."""
    _become("galenic_server.bench", *context.args)


def audit(context: typer.Context) -> None:
    """Verify, export or archive the audit chain, where the server's database and secret are."""
    _become("galenic_server.audit", *context.args)


def settings() -> None:
    """Print every setting of the server with its value here, its default and its meaning."""
    _become("galenic_server.environment")


def openapi() -> None:
    """Print the server's OpenAPI document, to generate clients from; no server has to run."""
    _become("galenic_server.http.openapi")


def doctor() -> None:
    """Diagnose this machine, and say how to mend it."""
    from galenic_adapters import doctor as doctors

    raise typer.Exit(doctors.main([]))


def _become(module: str, *arguments: str) -> NoReturn:
    """Run *module* in place of this command: nothing on this floor may import the server."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  no shell is wanted
