"""
Reads data sets of the Hugging Face hub, or folders in its layout.

Only this module needs the library ``datasets``, so it is imported on use. The library runs no code
of a data set.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from galenic_adapters.data.conll import TAG, tagged
from galenic_adapters.data.documents import Document
from galenic_adapters.errors import BadInput, NotFound, Unavailable

Row = dict[str, Any]

COLUMNS: dict[str, tuple[str, ...]] = {
    "ner": ("tokens", "ner_tags"),
    "qa": ("question", "context", "options", "answer"),
    "nli": ("premise", "hypothesis", "label"),
    "summarization": ("text", "summary"),
}
MAY_LACK = {"context", "options"}


@dataclass(frozen=True, slots=True)
class HubSet:
    """
    Names one split of a data set.

    columns: our column names to theirs, where they differ; ``options.A`` is a question's option A.
    """

    name: str
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def hub_documents(source: HubSet) -> Iterator[Document]:
    """Yield a document for each tokenized sentence; raises `BadInput` for malformed tags."""
    for number, row in enumerate(_rows(source, "ner")):
        where = f"{source.name}/{source.split}/{number}"
        tokens, tags = row["tokens"], row["ner_tags"]
        if len(tokens) != len(tags) or not all(
            isinstance(tag, str) and TAG.fullmatch(tag) for tag in tags
        ):
            raise BadInput(where, "tags are not one of O, B-type, I-type … for each token")
        yield tagged(where, tokens, tags)


def hub_rows(source: HubSet, task: str) -> Iterator[Row]:
    """
    Yield rows in our schema, for all tasks but NER.

    Raises `BadInput` for missing columns, `NotFound` or `Unavailable` for the data set itself.
    """
    for number, row in enumerate(_rows(source, task)):
        options = row.get("options")
        if options and isinstance(row["answer"], int):
            row["answer"] = list(options)[row["answer"]]
        yield {"id": f"{source.name}/{source.split}/{number}", **row}


def _rows(source: HubSet, task: str) -> Iterator[Row]:
    """Yield the columns that *task* needs under our names; class numbers become their names."""
    if task not in COLUMNS:
        raise BadInput("task", f"{task!r} is none of {', '.join(COLUMNS)}")
    loaded = _load(source)
    names = _names(source.columns, COLUMNS[task], set(loaded.column_names))
    classes = {theirs: _classes(loaded.features[theirs]) for theirs in names.values()}
    for row in loaded:
        made: Row = {}
        for ours, theirs in names.items():
            _put(made, ours, _worded(row[theirs], classes[theirs]))
        yield made


def _load(source: HubSet) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise BadInput("format", "hub needs the library: pip install datasets") from None
    name, revision = source.name, source.revision
    try:
        return datasets.load_dataset(name, source.subset, split=source.split, revision=revision)
    except ConnectionError as error:
        raise Unavailable(f"no hub answers for {name}: {type(error).__name__}") from error
    except (OSError, ValueError) as error:  # the library's own errors derive from these
        raise NotFound(f"data set {name}: {str(error)[:200]}") from error


def _names(given: Mapping[str, str], needed: Iterable[str], there: set[str]) -> dict[str, str]:
    """Map our column names to theirs; raises `BadInput` if a required column is missing."""
    roots = {ours.partition(".")[0] for ours in given}
    names = dict(given) | {ours: ours for ours in needed if ours not in roots}
    for ours, theirs in list(names.items()):
        if theirs in there:
            continue
        if ours not in MAY_LACK or ours in given:
            listed = ", ".join(sorted(there))
            raise BadInput("columns", f"no {theirs!r} for {ours!r} among {listed}")
        del names[ours]
    return names


def _classes(feature: Any) -> list[str] | None:
    """Return the class names of a column, or of the lists in it, if it has any."""
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def _worded(value: Any, classes: list[str] | None) -> Any:
    if classes is None:
        return value
    if isinstance(value, list):
        return [_worded(item, classes) for item in value]
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value


def _put(row: Row, path: str, value: Any) -> None:
    root, _, leaf = path.partition(".")
    if leaf:
        row.setdefault(root, {})[leaf] = value
    else:
        row[root] = value
