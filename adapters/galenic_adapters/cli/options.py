"""
Options that several commands share, and how errors are printed.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from galenic_client import Client

BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", envvar="GALENIC_BACKBONE", help="A hub name or a local folder."),
]
TaskChoice = Literal["ner", "re", "qa", "nli", "summarization"]
MetapromptFile = Annotated[
    Path | None, typer.Option(exists=True, help="The metaprompt's file; the zoo's if unset.")
]
ExistingFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
Url = Annotated[
    str | None, typer.Option("--url", envvar="GALENIC_URL", help="Where the server is.")
]
Key = Annotated[str | None, typer.Option("--key", envvar="GALENIC_API_KEY", help="Your API key.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose; an admin may name any.")]
Etag = Annotated[
    str | None, typer.Option("--etag", help="Only if it is still this, as `alias get` told.")
]


PIPED_WIDTH = 250


def number_or(word: str) -> Any:
    """Make an option that takes a whole number, or *word* for none."""

    def parse(text: str) -> int | str:
        if text != word and not (text.isascii() and text.isdigit()):
            raise typer.BadParameter(f"is neither a whole number nor {word!r}")
        return text if text == word else int(text)

    return {"parser": parse, "metavar": f"N|{word}"}


def changed(now: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Return *now* with the options *given*; the word of `number_or` becomes None."""
    chosen = {name: value for name, value in given.items() if value is not None}
    return {**now, **{k: None if isinstance(v, str) else v for k, v in chosen.items()}}


def pairs_of(given: list[str], hint: str, form: str) -> dict[str, str]:
    """Read the words NAME=VALUE that were *given* to the option *hint*; *form* shows it."""
    pairs = [word.partition("=") for word in given]
    if not all(equals for _, equals, _ in pairs):
        raise typer.BadParameter(f"give each as {form}", param_hint=hint)
    return {key: value for key, _, value in pairs}


@contextmanager
def asking(url: str | None, key: str | None) -> "Iterator[Client]":
    """Yield a client for one command; the server's errors end the command with their message."""
    from galenic_client import Client
    from galenic_client.errors import ApiError, GalenicError, Unauthenticated

    try:
        with Client(url, api_key=key) as client:
            yield client
    except UnicodeEncodeError:
        fail("what was given is not UTF-8 text")
    except Unauthenticated as error:
        fail(error if key else "the server wants a key: give --key, or set GALENIC_API_KEY")
    except ApiError as error:
        for fault in error.faults:
            typer.secho(f"{fault['path']}: {fault['problem']}", err=True)
        fail(f"refused, see above (HTTP {error.status})" if error.faults else error)
    except GalenicError as error:
        fail(error)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """End the command with the message of any of our own errors."""
    from galenic_adapters.errors import GalenicError

    try:
        yield
    except GalenicError as error:
        fail(error)


def fail(error: object) -> NoReturn:
    typer.secho(f"galenic: {error}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1) from None


def show(*columns: str, rows: Iterator[tuple[str, ...]]) -> None:
    """Print a table without lines; when piped, no cell is cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)
