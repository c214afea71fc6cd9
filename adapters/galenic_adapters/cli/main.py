"""
The ``galenic`` command. Subcommands import what they need when they run, so help is fast.
"""

from typing import Any

import typer

from galenic_adapters.cli import (
    aliases,
    ask,
    data,
    evaluate,
    keys,
    learn,
    limits,
    packages,
    peft,
    serve,
    tenants,
)

OWN_ARGUMENTS: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
"""How a command is registered whose program parses its own arguments."""

app = typer.Typer(
    help="One resident language model, and a few kilobytes for every clinical NLP task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, commands in (
    ("keys", keys.app),
    ("alias", aliases.app),
    ("adapters", packages.app),
    ("tenants", tenants.app),
    ("limits", limits.app),
):
    app.add_typer(commands, name=name, no_args_is_help=True)
for command in (
    packages.push,
    packages.sign,
    serve.serve,
    serve.settings,
    serve.openapi,
    serve.doctor,
    ask.ask,
    ask.models,
    learn.train,
    learn.estimate,
    learn.adapt,
    learn.reproduce,
    evaluate.evaluate,
    evaluate.calibrate,
    data.convert,
    data.convert_hub,
    peft.import_peft,
    peft.export_peft,
):
    app.command()(command)
app.command(**OWN_ARGUMENTS)(serve.bench)
app.command(**OWN_ARGUMENTS)(serve.audit)
