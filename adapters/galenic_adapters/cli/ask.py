"""
Commands that ask a running server.
"""

import sys
from typing import Annotated, Any, Literal

import typer

from galenic_adapters.cli.options import Key, Url, asking, pairs_of, reporting_errors, show

AdapterName = Annotated[
    str | None, typer.Option("--adapter", "-a", help="name, name@version or alias.")
]


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
        typer.echo(ask_for([document], adapter=adapter).model_dump_json(indent=2))


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
            "options": pairs_of(options, "--option", "LETTER=TEXT"),
        }
        return {name: value for name, value in question.items() if value}
    return {"text": text}
