"""
The sources of a run, read, checked and encoded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galenic_adapters.data.examples import read_dataset, with_lists
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Task
from galenic_adapters.tasks.registry import make_task
from galenic_adapters.training.batches import Encoded, encode_example
from galenic_adapters.training.recipe import Recipe, Source


@dataclass(frozen=True, slots=True)
class Course:
    """One source's examples; num_left_out counts training examples over the length limit."""

    source: Source
    task: Task[Any, Any]
    train: list[Encoded]
    dev: list[Encoded]
    num_left_out: int

    @property
    def name(self) -> str:
        return self.source.name


def prepare(source: Source, recipe: Recipe, tokenizer: Any, *, data: Path = Path()) -> Course:
    """
    Read *source*'s files, which stand below the folder *data*, and encode their examples.

    Raises `BadInput` that names faulty lines.
    """
    read = read_dataset(data / source.train, source.task)
    task = make_task(source.task, read.labels)
    examples = with_lists(read.examples) if source.lists else read.examples
    encoded = [encode_example(tokenizer, task, example) for example in examples]
    train = [one for one in encoded if len(one) <= recipe.max_text_tokens]
    if not train:
        limit = recipe.max_text_tokens
        raise BadInput(source.name, f"all {len(encoded)} examples have more than {limit} tokens")
    dev = _dev(source, recipe, tokenizer, task, data)
    return Course(source, task, train, dev, len(encoded) - len(train))


def _dev(
    source: Source, recipe: Recipe, tokenizer: Any, task: Task[Any, Any], data: Path
) -> list[Encoded]:
    if source.dev is None:
        return []
    examples = read_dataset(data / source.dev, source.task).examples
    first = examples[: recipe.max_dev_examples]
    encoded = [encode_example(tokenizer, task, example) for example in first]
    return [one for one in encoded if len(one) <= recipe.max_text_tokens]
