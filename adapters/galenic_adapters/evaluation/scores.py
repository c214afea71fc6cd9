"""
Scores of answers against gold values, one table of metrics a task; higher is better for all.

    NER            strict micro F1 over (start, end, type)
    RE             micro F1 over relations, ``none`` not counted; macro F1 over the types
    QA             accuracy with options; else exact match and token F1 (as in SQuAD)
    NLI            accuracy; macro F1 over the labels
    summarization  ROUGE-L F1
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from galenic_adapters.tasks.base import Answer, Example, Reading, TaskName


@dataclass(frozen=True, slots=True)
class Scores:
    """metrics by name, the main one first; num_unread answers were not CLEAN and count as said."""

    metrics: dict[str, float]
    num_examples: int
    num_unread: int

    @property
    def main(self) -> tuple[str, float]:
        return next(iter(self.metrics.items()))


def score(task: TaskName, examples: Sequence[Example], answers: Sequence[Answer[Any]]) -> Scores:
    """The scores of *answers* to *examples*; an answer without a value is simply wrong."""
    gold = [example.value for example in examples]
    said = [answer.value for answer in answers]
    match task:
        case TaskName.NER:
            metrics = {"strict_f1": micro_f1(_spans(gold), _spans(said))}
        case TaskName.RE:
            metrics = _relation_scores(_relations(gold), _relations(said))
        case TaskName.NLI:
            metrics = {"accuracy": accuracy(gold, said), "macro_f1": macro_f1(gold, said)}
        case TaskName.QA if any(example.fields.options for example in examples):
            metrics = {"accuracy": accuracy(gold, said), "macro_f1": macro_f1(gold, said)}
        case TaskName.QA:
            metrics = {"token_f1": _mean(map(token_f1, gold, said)), "exact": accuracy(gold, said)}
        case _:
            metrics = {"rouge_l": rouge_l(gold, said)}
    unread = sum(answer.reading is not Reading.CLEAN for answer in answers)
    return Scores(metrics, len(examples), unread)


def _spans(values: Sequence[Any]) -> list[set[Any]]:
    return [{(s.start, s.end, s.type) for s in value or ()} for value in values]


def _relations(values: Sequence[Any]) -> list[set[Any]]:
    return [{(r.type, r.head.text, r.tail.text) for r in value or ()} for value in values]


def micro_f1(gold: Sequence[set[Any]], said: Sequence[set[Any]]) -> float:
    right = sum(len(g & s) for g, s in zip(gold, said, strict=True))
    total = sum(map(len, gold)) + sum(map(len, said))
    return 2 * right / total if total else 1.0


def _relation_scores(gold: list[set[Any]], said: list[set[Any]]) -> dict[str, float]:
    types = sorted({fact[0] for facts in gold for fact in facts})

    def of(type_: str, many: list[set[Any]]) -> list[set[Any]]:
        return [{fact for fact in facts if fact[0] == type_} for facts in many]

    macro = _mean(micro_f1(of(type_, gold), of(type_, said)) for type_ in types)
    return {"micro_f1": micro_f1(gold, said), "macro_f1": macro}


def accuracy(gold: Sequence[Any], said: Sequence[Any]) -> float:
    return _mean(g == s for g, s in zip(gold, said, strict=True))


def macro_f1(gold: Sequence[Any], said: Sequence[Any]) -> float:
    """The mean over gold labels of each label's F1."""

    def only(label: Any, many: Sequence[Any]) -> list[set[Any]]:
        return [{label} & {one} for one in many]

    return _mean(micro_f1(only(label, gold), only(label, said)) for label in sorted(set(gold)))


def token_f1(gold: str, said: str | None) -> float:
    """Word overlap after SQuAD's normalization (arXiv 1606.05250)."""
    left, right = _words(gold), _words(said or "")
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right)) if common else float(left == right)


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def rouge_l(gold: Sequence[str], said: Sequence[str | None]) -> float:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(gold, said, strict=True)
    return _mean(scorer.score(g, s or "")["rougeL"].fmeasure for g, s in pairs)


def _mean(values: Iterable[float]) -> float:
    return float(fmean(values))
