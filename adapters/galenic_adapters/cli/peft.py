"""
Commands that exchange adapters with Hugging Face's PEFT.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from galenic_adapters.cli.options import BackboneName, MetapromptFile, TaskChoice, reporting_errors


def import_peft(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Where the package goes.")],
    name: Annotated[str, typer.Option(help="The adapter's name.")],
    task: Annotated[TaskChoice, typer.Option(help="What it does.")],
    label: Annotated[list[str] | None, typer.Option(help="One of its labels, in order.")] = None,
    task_id: Annotated[int, typer.Option(min=0, help="Which of a multitask checkpoint's.")] = 0,
    licence: Annotated[str, typer.Option(help="What it may be used under.")] = "not stated",
    backbone: BackboneName = None,
) -> None:
    """
    Make a package of a PEFT checkpoint: PROMPT_TUNING, P_TUNING, MULTITASK_PROMPT_TUNING (a task),
    PREFIX_TUNING or IA3. It needs no metaprompt.
    """
    from galenic_adapters.package import peft

    with reporting_errors():
        peft.import_peft(
            checkpoint,
            folder,
            name=name,
            task=task,
            labels=label or (),
            task_id=task_id,
            licence=licence,
            backbone=backbone,
            say=typer.echo,
        )


def export_peft(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    packages: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    metaprompt: MetapromptFile = None,
    form: Annotated[
        Literal["multitask", "prompt"],
        typer.Option(help="Products as tasks 0, 1, …; or one as a plain prompt."),
    ] = "multitask",
    backbone: BackboneName = None,
) -> None:
    """
    Write packages as a checkpoint that PEFT loads: products over a metaprompt as the tasks of one
    MULTITASK_PROMPT_TUNING, or one package as PROMPT_TUNING, PREFIX_TUNING or IA3.
    """
    from galenic_adapters.package import peft

    with reporting_errors():
        peft.export_peft(
            packages,
            folder,
            metaprompt_file=metaprompt,
            form=form,
            backbone=backbone,
            say=typer.echo,
        )
