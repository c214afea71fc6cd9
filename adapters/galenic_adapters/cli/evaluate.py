"""
Commands that answer labelled examples: to score an adapter, or to calibrate its confidences.
"""

from pathlib import Path
from typing import Annotated

import typer

from galenic_adapters.cli.options import (
    BackboneName,
    ExistingFile,
    Key,
    MetapromptFile,
    TaskChoice,
    asking,
    reporting_errors,
)

DatasetName = Annotated[
    str | None, typer.Option(help="Its name, for the card; if unset, folder/file.")
]
Limit = Annotated[int | None, typer.Option(help="Examples to take; all if unset.")]


def evaluate(
    package: Annotated[str, typer.Argument(help="A package's file; with --server, its name.")],
    data: ExistingFile,
    dataset: DatasetName = None,
    split: Annotated[str, typer.Option(help="Which split it is.")] = "test",
    metaprompt: MetapromptFile = None,
    limit: Limit = None,
    untuned: Annotated[
        Path | None, typer.Option(exists=True, help="Records of the untuned backbone's answers.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="Ask the server there instead.")] = None,
    key: Key = None,
    task: Annotated[TaskChoice | None, typer.Option(help="With --server: what it does.")] = None,
    records: Annotated[
        Path | None, typer.Option(help="With --server: where its answers go.")
    ] = None,
    backbone: BackboneName = None,
) -> None:
    """
    Score a package, the untuned backbone and the best constant label on the same examples, and
    write the scores into its card; or score an adapter of a running server by the same metrics.
    """
    from galenic_adapters.evaluation import measure

    if server:
        if task is None:
            raise typer.BadParameter("a server's adapter needs one", param_hint="--task")
        target = records or Path(f"{package.replace('@', '.')}.{split}.server.jsonl")
        with reporting_errors(), asking(server, key) as client:
            measure.measure_remote(
                client, package, data, target, task_name=task, limit=limit, say=typer.echo
            )
        return
    if not Path(package).is_file():
        raise typer.BadParameter(f"{package} is no file", param_hint="PACKAGE")
    with reporting_errors():
        measure.measure(
            Path(package),
            data,
            metaprompt_file=metaprompt,
            dataset=dataset or _name_of(data),
            split=split,
            limit=limit,
            untuned_records=untuned,
            backbone=backbone,
            say=typer.echo,
        )


def calibrate(
    package: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A package's file.")],
    data: ExistingFile,
    dataset: DatasetName = None,
    split: Annotated[str, typer.Option(help="Which split it is; not that of the scores.")] = "dev",
    metaprompt: MetapromptFile = None,
    limit: Limit = None,
    backbone: BackboneName = None,
) -> None:
    """
    Correct a package's confidences: compare them with what is right on labelled examples, and write
    the correction into the package.
    """
    from galenic_adapters.evaluation import calibrate as calibration

    with reporting_errors():
        calibration.calibrate(
            package,
            data,
            metaprompt_file=metaprompt,
            dataset=dataset or _name_of(data),
            split=split,
            limit=limit,
            backbone=backbone,
            say=typer.echo,
        )


def _name_of(data: Path) -> str:
    """Name a data set by its file and folder."""
    return f"{data.resolve().parent.name}/{data.name}"
