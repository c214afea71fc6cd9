"""
Reading an answer that is one label of a closed set.
"""

import math

from galenic_adapters.tasks.base import Answer, Choice, Completion, Reading


def read_choice(completion: Completion, choice: Choice) -> Answer[str]:
    """The label said, with its probability among the labels where the decoding measured it."""
    if completion.finish == "length":
        # One label can be another's beginning, so an unfinished one is no label.
        return Answer(None, Reading.TRUNCATED)
    if completion.text not in choice.labels:
        return Answer(None, Reading.OFF_SCHEMA)
    confidence = None if completion.logprob is None else min(1.0, math.exp(completion.logprob))
    return Answer(completion.text, Reading.CLEAN, confidence)


def room_for(labels: tuple[str, ...]) -> int:
    """Tokens that hold the longest label and the end: no tokenizer takes more than its bytes."""
    return max(len(label.encode()) for label in labels) + 1
