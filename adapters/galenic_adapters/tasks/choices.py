"""
Reads an answer that is one label of a closed set.
"""

from galenic_adapters.tasks.base import Answer, Choice, Completion, Reading
from galenic_adapters.tasks.confidence import probability


def read_choice(completion: Completion, choice: Choice) -> Answer[str]:
    """Return the completion's label, with its probability among the labels if measured."""
    if completion.finish == "length":
        # A label can be the beginning of another, so a truncated one cannot be trusted.
        return Answer(None, Reading.TRUNCATED)
    if completion.text not in choice.labels:
        return Answer(None, Reading.OFF_SCHEMA)
    return Answer(completion.text, Reading.CLEAN, probability(completion.logprob))


def room_for(labels: tuple[str, ...]) -> int:
    """Return tokens enough for the longest label and the end: no label has more than its bytes."""
    return max(len(label.encode()) for label in labels) + 1
