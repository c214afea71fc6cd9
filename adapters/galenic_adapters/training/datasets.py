"""
Reads, checks and encodes the data of a run's sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from galenic_adapters.data.examples import read_dataset, with_lists
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Example, Task
from galenic_adapters.tasks.lookup import make_task
from galenic_adapters.training.batches import Encoded, encode_example
from galenic_adapters.training.recipe import Source

HELD_OUT = 0.1
FEWEST_TO_SPLIT = 20


@dataclass(frozen=True, slots=True)
class Course:
    """
    Holds one source's task and its encoded examples.

    dev: the encoded dev_examples.   num_left_out: training examples over the length limit.
    """

    source: Source
    task: Task[Any, Any]
    train: list[Encoded]
    dev: list[Encoded]
    dev_examples: list[Example]
    num_left_out: int

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def mean_answer(self) -> float:
        """Return the mean number of tokens per training answer; losses are divided by it."""
        return fmean(len(encoded.answer) for encoded in self.train)


def prepare(
    source: Source,
    tokenizer: Any,
    *,
    data: Path = Path(),
    max_text_tokens: int = 768,
    max_dev_examples: int = 100,
    hold_out: bool = False,
) -> Course:
    """
    Read *source*'s files below the folder *data* and encode their examples.

    With *hold_out*, a source that names no dev file and has at least `FEWEST_TO_SPLIT` training
    examples gives a tenth of its texts to its dev set. Raises `BadInput` that names faulty lines.
    """
    read = read_dataset(data / source.train, source.task, source.labels)
    labels = source.labels or read.labels
    train, dev = list(read.examples), []
    if source.dev:
        dev = list(read_dataset(data / source.dev, source.task, labels).examples)
    elif hold_out and len(train) >= FEWEST_TO_SPLIT:
        train, dev = _held_out(train)
    task = make_task(source.task, labels)
    if source.shots is not None:
        train = drawn(train, source.shots, str(source.draw))
    return encode_course(
        source, task, train, dev[:max_dev_examples], tokenizer, max_text_tokens=max_text_tokens
    )


def encode_course(
    source: Source,
    task: Task[Any, Any],
    train: Sequence[Example],
    dev: Sequence[Example],
    tokenizer: Any,
    *,
    max_text_tokens: int,
) -> Course:
    """
    Encode *train* and *dev* for *task*, leaving out examples over *max_text_tokens*.

    Raises `BadInput` if every training example is too long.
    """
    examples = with_lists(train) if source.lists else train

    def fitting(many: Sequence[Example]) -> list[tuple[Example, Encoded]]:
        encoded = [(example, encode_example(tokenizer, task, example)) for example in many]
        return [pair for pair in encoded if len(pair[1]) <= max_text_tokens]

    kept, kept_dev = fitting(examples), fitting(dev)
    if not kept:
        problem = f"all {len(examples)} examples have more than {max_text_tokens} tokens"
        raise BadInput(source.name, problem)
    return Course(
        source,
        task,
        [encoded for _, encoded in kept],
        [encoded for _, encoded in kept_dev],
        [example for example, _ in kept_dev],
        len(examples) - len(kept),
    )


def _held_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """
    Split *examples* into training and dev examples by text.

    A text goes to one side with all its examples, so no dev text was seen in training.
    """
    texts = list(dict.fromkeys(_text(example) for example in examples))
    Random("held out").shuffle(texts)
    held = set(texts[: max(1, int(HELD_OUT * len(texts)))])
    return (
        [example for example in examples if _text(example) not in held],
        [example for example in examples if _text(example) in held],
    )


def _text(example: Example) -> str:
    fields = example.fields
    return str(getattr(fields, "text", None) or fields)


def drawn(examples: Sequence[Example], shots: int, draw: str) -> list[Example]:
    """Draw *shots* examples at random, balanced over labels (for spans: over sets of types)."""
    order = list(examples)
    Random(f"shots/{draw}").shuffle(order)
    by_answer: dict[str, list[Example]] = {}
    for example in order:
        by_answer.setdefault(_answer(example), []).append(example)
    rounds = [
        group[turn]
        for turn in range(max(map(len, by_answer.values())))
        for group in by_answer.values()
        if turn < len(group)
    ]
    return rounds[:shots]


def _answer(example: Example) -> str:
    """Return the class that balances draws: a label, or the types of the spans in the answer."""
    if isinstance(example.value, str):
        return example.value if len(example.value) <= 32 else ""  # longer ones are free text
    return ",".join(sorted({span.type or "" for span in example.value}))
