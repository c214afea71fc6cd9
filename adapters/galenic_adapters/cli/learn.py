"""
Commands that learn: metaprompts, adapters, and the study that compares methods.
"""

from pathlib import Path
from typing import Annotated

import typer

from galenic_adapters.cli.options import BackboneName, ExistingFile, TaskChoice, reporting_errors

RunFolder = Annotated[Path, typer.Argument(help="Where the run lies; resumes what is there.")]


def train(
    recipe: ExistingFile,
    folder: RunFolder,
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Where the recipe's paths start.")
    ] = Path(),
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Go on from the metaprompt and factors there."
        ),
    ] = None,
    backbone: BackboneName = None,
) -> None:
    """
    Train a metaprompt, and a factor for every source of a recipe. For several GPUs:
    accelerate launch -m galenic_adapters.cli train ...
    """
    from galenic_adapters.training import runs
    from galenic_adapters.training.recipe import Recipe

    with reporting_errors():
        runs.train(
            Recipe.load(recipe), folder, data=data, start=start, backbone=backbone, say=typer.echo
        )


def estimate(
    recipe: ExistingFile,
    gpu: Annotated[str, typer.Option(help="H100, H200 or A100-80GB.")] = "H100",
    gpus: Annotated[int, typer.Option(min=1)] = 1,
    use: Annotated[
        float, typer.Option(min=0.01, max=1, help="The share of its peak that is reached.")
    ] = 0.35,
) -> None:
    """Estimate the GPU memory and the hours that a recipe takes, from its backbone's shape."""
    from galenic_adapters.training import estimate as estimates
    from galenic_adapters.training.recipe import Recipe

    with reporting_errors():
        made = estimates.estimate(Recipe.load(recipe), gpu, gpus=gpus, use=use)
        for line in made.lines():
            typer.echo(line)


def adapt(
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    folder: RunFolder,
    task: Annotated[TaskChoice, typer.Option(help="What it does.")],
    data: Annotated[Path, typer.Option(exists=True, help="Training examples, JSON lines.")],
    dev: Annotated[
        Path | None,
        typer.Option(exists=True, help="To choose the factor by; a tenth of the data if unset."),
    ] = None,
    metaprompt: Annotated[
        Path | None, typer.Option(exists=True, help="The frozen metaprompt; the zoo's if unset.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="ones, mean, task (mean of its kind), nearest, or a package.")
    ] = "nearest",
    label: Annotated[
        list[str] | None, typer.Option(help="One of its labels; those in the data if none.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=2, help="Learn from so many examples only, drawn by seed.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    steps: Annotated[int, typer.Option(min=1, help="At most so many.")] = 400,
    rows: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 16,
    rate: Annotated[
        float, typer.Option(min=0, help="Peak learning rate; 0.1 suits products at the input.")
    ] = 0.02,
    patience: Annotated[int, typer.Option(help="Looks without a gain, then it stops.")] = 5,
    seed: int = 0,
    dataset: Annotated[str | None, typer.Option(help="The data set's name, for the card.")] = None,
    licence: Annotated[
        str, typer.Option(help="What the adapter may be used under: yours to say.")
    ] = "not stated",
    data_licence: Annotated[str, typer.Option(help="The data's licence.")] = "not stated",
    backbone: BackboneName = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute layers again in the backward pass.")
    ] = False,
) -> None:
    """Train one factor on examples, over a frozen metaprompt, and write a package to push."""
    from galenic_adapters.training import runs
    from galenic_adapters.training.recipe import Phase, Recipe, Source

    with reporting_errors():
        source = Source(
            name=name,
            task=task,
            train=str(data),
            dev=str(dev) if dev else None,
            dataset=dataset,
            licence=data_licence,
            lists=task == "re",
            labels=tuple(label or ()),
            shots=shots,
            draw=seed,
        )
        learn = Phase(
            num_steps=steps, lr=rate, rows_per_source=rows, dev_every=25, patience=patience
        )
        recipe = Recipe(
            (source,), learn, rank=rank, seed=seed, licence=licence, checkpointing=checkpointing
        )
        runs.adapt(
            recipe,
            folder,
            metaprompt,
            start=start,
            backbone=backbone,
            say=typer.echo,
        )


def reproduce(
    folder: Annotated[Path, typer.Argument(help="Where the study lies; goes on with its pieces.")],
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Data sets and catalogue.json.")
    ],
    preset: Annotated[str, typer.Option(help="smoke, targets, cpu, gpu, or a file.")] = "smoke",
    run: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="A finished `train`, whose metaprompt is studied."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only main, zoo, few_shot or variants; all if none."),
    ] = None,
    report_only: Annotated[bool, typer.Option(help="Run nothing; score what is there.")] = False,
    backbone: BackboneName = None,
) -> None:
    """Run the whole study of the method, piece by piece, and write its report."""
    from galenic_adapters.study import reproduce as study

    with reporting_errors():
        study.reproduce(
            preset,
            folder,
            data=data,
            backbone=backbone,
            run=run,
            parts=tuple(part or study.PARTS),
            report_only=report_only,
            say=typer.echo,
        )
