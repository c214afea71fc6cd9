"""
Commands that convert annotated data from elsewhere.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from galenic_adapters.cli.options import pairs_of, reporting_errors


def convert(
    form: Annotated[Literal["brat", "bioc", "conll", "pubannotation"], typer.Argument()],
    source: Annotated[Path, typer.Argument(exists=True, help="A file, or a folder of them.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write; gzipped if it ends in .gz.")],
    task: Annotated[Literal["ner", "re"], typer.Option(help="What the examples ask.")] = "ner",
    label: Annotated[list[str] | None, typer.Option(help="A type to take; all if none.")] = None,
    split: Annotated[
        Literal["whole", "lines", "sentences"], typer.Option(help="What one example's text is.")
    ] = "whole",
    discontinuous: Annotated[
        Literal["drop", "cover"], typer.Option(help="Mentions in several places.")
    ] = "drop",
    overlaps: Annotated[
        Literal["keep", "longest"], typer.Option(help="ner: mentions that overlap.")
    ] = "keep",
    none_pairs: Annotated[
        int, typer.Option(min=0, help="re: unrelated pairs to add, at most so many a text.")
    ] = 0,
    token_column: Annotated[int, typer.Option(help="conll: where tokens stand, from 0.")] = 0,
    tag_column: Annotated[int, typer.Option(help="conll: where tags stand; -1 is the last.")] = -1,
) -> None:
    """Convert annotated documents to training examples; reports what was left out, and why."""
    from galenic_adapters.data.commands import convert_files
    from galenic_adapters.data.conll import Columns
    from galenic_adapters.data.convert import Rules

    with reporting_errors():
        rules = Rules(tuple(label or ()), discontinuous, overlaps, split, none_pairs)
        columns = Columns(token_column, tag_column)
        convert_files(form, source, out, task=task, rules=rules, columns=columns, say=typer.echo)


def convert_hub(
    name: Annotated[str, typer.Argument(help="A data set of the hub, or a folder in its layout.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write; gzipped if it ends in .gz.")],
    task: Annotated[
        Literal["ner", "qa", "nli", "summarization"], typer.Option(help="What it asks.")
    ],
    split: Annotated[str, typer.Option(help="Which of its splits.")] = "train",
    subset: Annotated[str | None, typer.Option(help="Which of its configurations.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, as premise=sentence1 or options.A=opa.")
    ] = None,
) -> None:
    """Convert a data set of the Hugging Face hub (needs the library `datasets`)."""
    from galenic_adapters.data import commands
    from galenic_adapters.data.hub import HubSet

    columns = pairs_of(column or [], "--column", "OURS=THEIRS")
    with reporting_errors():
        source = HubSet(name, split, subset, revision, columns)
        commands.convert_hub(source, out, task=task, say=typer.echo)
