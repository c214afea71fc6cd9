"""
The ``galenic`` command. Subcommands import what they need when they run, so help is fast.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from galenic_adapters.cli import aliases, keys, limits, packages, tenants
from galenic_adapters.cli.options import Key, Url, asking, reporting_errors, show

if TYPE_CHECKING:
    from pydantic import BaseModel


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
app.command()(packages.push)
app.command()(packages.sign)

AdapterName = Annotated[
    str | None, typer.Option("--adapter", "-a", help="name, name@version or alias.")
]
BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", envvar="GALENIC_BACKBONE", help="A hub name or a local folder."),
]
RunFolder = Annotated[Path, typer.Argument(help="Where the run lies; resumes what is there.")]
TaskChoice = Literal["ner", "re", "qa", "nli", "summarization"]
Existing = typer.Argument(exists=True, dir_okay=False)


# The server and the machine


@app.command()
def serve(
    backbone: BackboneName = None,
    engine: Annotated[str | None, typer.Option(help="vllm or transformers.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to bind.")] = None,
) -> None:
    """Serve until interrupted. Every setting is also GALENIC_<NAME> in the environment."""
    chosen = {"BACKBONE": backbone, "ENGINE": engine, "HOST": host, "PORT": port}
    given = {f"GALENIC_{name}": str(value) for name, value in chosen.items() if value is not None}
    # Run as another program: nothing on this floor may import the server.
    command = [sys.executable, "-m", "galenic_server"]
    os.execve(sys.executable, command, os.environ | given)  # noqa: S606  no shell is wanted


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure this machine: adapters beside the bare backbone and vLLM's own ways."""
    # Another program, as for `serve`; it parses its own arguments.
    command = [sys.executable, "-m", "galenic_server.bench", *context.args]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def audit(context: typer.Context) -> None:
    """Verify, export or archive the audit chain, where the server's database and secret are."""
    command = [sys.executable, "-m", "galenic_server.audit", *context.args]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted


@app.command()
def settings() -> None:
    """Print every setting of the server with its value here, its default and its meaning."""
    command = [sys.executable, "-m", "galenic_server.settings"]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted


@app.command()
def openapi() -> None:
    """Print the server's OpenAPI document, to generate clients from; no server has to run."""
    command = [sys.executable, "-m", "galenic_server.http.openapi"]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted


@app.command()
def doctor() -> None:
    """Diagnose this machine, and say how to mend it."""
    from galenic_adapters import doctor as doctors

    raise typer.Exit(doctors.main([]))


# Asking a server


@app.command()
def ask(
    task: Annotated[Literal["ner", "re", "qa", "nli", "summarize"], typer.Argument()],
    text: Annotated[str, typer.Argument(help="The text, question or premise; - reads stdin.")],
    hypothesis: Annotated[str | None, typer.Option(help="nli: the second text.")] = None,
    context: Annotated[str | None, typer.Option(help="qa: what the answer stands in.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="qa: A=text, for each.")] = None,
    adapter: AdapterName = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Ask a running server one question, and print its reply as JSON."""
    with reporting_errors():
        text = _stdin() if text == "-" else text
    document = _document(task, text, hypothesis, context, option or [])
    with asking(url, key) as client:
        ask_for: Any = getattr(client, task)
        _print(ask_for([document], adapter=adapter))


@app.command()
def models(url: Url = None, key: Key = None) -> None:
    """List every model that the key may name: the backbone, adapters and aliases."""
    with asking(url, key) as client:
        rows = (
            (
                model.id,
                (model.adapter or {}).get("task", ""),
                ", ".join((model.adapter or {}).get("labels", ())),
                model.owned_by,
            )
            for model in client.models()
        )
        show("model", "task", "labels", "owner", rows=rows)


def _stdin() -> str:
    from galenic_adapters.files import MARK, decoded

    return decoded("stdin", sys.stdin.buffer.read()).removeprefix(MARK)


def _document(
    task: str, text: str, hypothesis: str | None, context: str | None, options: list[str]
) -> dict[str, Any]:
    if task == "nli":
        if hypothesis is None:
            raise typer.BadParameter("nli needs a second text", param_hint="--hypothesis")
        return {"premise": text, "hypothesis": hypothesis}
    if task == "qa":
        question = {
            "question": text,
            "context": context,
            "options": _pairs(options, "--option", "LETTER=TEXT"),
        }
        return {name: value for name, value in question.items() if value}
    return {"text": text}


def _pairs(given: list[str], hint: str, form: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in given]
    if not all(equals for _, equals, _ in pairs):
        raise typer.BadParameter(f"give each as {form}", param_hint=hint)
    return {key: value for key, _, value in pairs}


# Learning


@app.command()
def train(
    recipe: Annotated[Path, Existing],
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


@app.command()
def estimate(
    recipe: Annotated[Path, Existing],
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


@app.command()
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


@app.command()
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


@app.command()
def evaluate(
    package: Annotated[str, typer.Argument(help="A package's file; with --server, its name.")],
    data: Annotated[Path, Existing],
    dataset: Annotated[
        str | None, typer.Option(help="Its name, for the card; if unset, folder/file.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split it is.")] = "test",
    metaprompt: Annotated[
        Path | None, typer.Option(exists=True, help="The metaprompt's file; the zoo's if unset.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples to take; all if unset.")] = None,
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
            dataset=dataset or f"{data.resolve().parent.name}/{data.name}",
            split=split,
            limit=limit,
            untuned_records=untuned,
            backbone=backbone,
            say=typer.echo,
        )


@app.command()
def calibrate(
    package: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A package's file.")],
    data: Annotated[Path, Existing],
    dataset: Annotated[
        str | None, typer.Option(help="Its name, for the card; if unset, folder/file.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split it is; not that of the scores.")] = "dev",
    metaprompt: Annotated[
        Path | None, typer.Option(exists=True, help="The metaprompt's file; the zoo's if unset.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples to take; all if unset.")] = None,
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
            dataset=dataset or f"{data.resolve().parent.name}/{data.name}",
            split=split,
            limit=limit,
            backbone=backbone,
            say=typer.echo,
        )


# Data and checkpoints from elsewhere


@app.command()
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


@app.command()
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

    columns = _pairs(column or [], "--column", "OURS=THEIRS")
    with reporting_errors():
        source = HubSet(name, split, subset, revision, columns)
        commands.convert_hub(source, out, task=task, say=typer.echo)


@app.command()
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


@app.command()
def export_peft(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    packages: Annotated[list[Path], Existing],
    metaprompt: Annotated[
        Path | None, typer.Option(exists=True, help="The metaprompt's file; the zoo's if unset.")
    ] = None,
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


def _print(reply: "BaseModel") -> None:
    typer.echo(reply.model_dump_json(indent=2))
