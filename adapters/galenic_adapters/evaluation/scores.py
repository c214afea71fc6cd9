"""
Scores answers against gold values; each task has its metrics, and higher is better for all.

    NER            strict F1 over (start, end, type); relaxed F1: the type is right and the spans
                   overlap (nervaluate's ``strict`` and ``ent_type``)
    RE             micro F1 over relations, ``none`` not counted; macro F1 over the types
    QA             accuracy with options; else token F1 (as in SQuAD) and exact match
    NLI            accuracy; macro F1 over the labels
    summarization  ROUGE-L F1

A metric is kept as every example's contribution, so that it can be computed for resamples too.

Dimension key:  N examples   L labels that a macro mean goes over   S resamples
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galenic_adapters.errors import Unavailable
from galenic_adapters.tasks.base import Answer, Example, Reading, Relation, Span, TaskName

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Holds a metric's parts; it is the mean over L of (sum over N of num) / (sum of den)."""

    num_NL: Numbers
    den_NL: Numbers

    def value(self) -> float:
        return float(self.values(np.ones((1, len(self.num_NL))))[0])

    def values(self, times_SN: Numbers) -> Numbers:
        """Return the metric (S,) if example n counts times_SN[:, n] times."""
        num_SL, den_SL = times_SN @ self.num_NL, times_SN @ self.den_NL
        # Finding nothing where there is nothing scores 1; a macro mean skips labels that a
        # resample does not contain.
        empty = 1.0 if num_SL.shape[1] == 1 else np.nan
        each_SL = np.divide(num_SL, den_SL, out=np.full_like(num_SL, empty), where=den_SL > 0)
        means: Numbers = np.nanmean(each_SL, axis=1)
        return means


@dataclass(frozen=True, slots=True)
class Scores:
    """
    Holds metrics by name, the main one first.

    num_unread: answers that were not CLEAN; they are scored by the value that could be read.
    tallies: the parts that the metrics were computed from.
    """

    metrics: dict[str, float]
    num_examples: int
    num_unread: int
    tallies: dict[str, Tally] = field(default_factory=dict, repr=False, compare=False)

    @property
    def main(self) -> tuple[str, float]:
        return next(iter(self.metrics.items()))


def score(task: TaskName, examples: Sequence[Example], answers: Sequence[Answer[Any]]) -> Scores:
    """
    Score *answers* to *examples*; an answer without a value counts as wrong.

    Raises `Unavailable` if a metric needs a library that is not installed.
    """
    gold = [example.value for example in examples]
    predicted = [answer.value for answer in answers]
    match task:
        case TaskName.NER:
            tallies = _entity_tallies(_spans(gold), _spans(predicted))
        case TaskName.RE:
            tallies = _relation_tallies(_relations(gold), _relations(predicted))
        case TaskName.QA if not any(example.fields.options for example in examples):
            tallies = {
                "token_f1": _mean(map(token_f1, gold, predicted)),
                "exact": _same(gold, predicted),
            }
        case TaskName.SUMMARIZATION:
            tallies = {"rouge_l": _mean(rouge_l(gold, predicted))}
        case _:
            tallies = {
                "accuracy": _same(gold, predicted),
                "macro_f1": _label_tally(gold, predicted),
            }
    unread = sum(answer.reading is not Reading.CLEAN for answer in answers)
    metrics = {name: tally.value() for name, tally in tallies.items()}
    return Scores(metrics, len(examples), unread, tallies)


def _spans(values: Sequence[Any]) -> list[set[Any]]:
    return [set(map(span_fact, value or ())) for value in values]


def _relations(values: Sequence[Any]) -> list[set[Any]]:
    return [set(map(relation_fact, value or ())) for value in values]


def span_fact(span: Span) -> tuple[int, int, str | None]:
    """Return what has to be right in an entity."""
    return span.start, span.end, span.type


def relation_fact(relation: Relation) -> tuple[str, str, str]:
    """Return what has to be right in a relation: its type and the words of its entities."""
    return relation.type, relation.head.text, relation.tail.text


def micro_f1(gold: Sequence[set[Any]], predicted: Sequence[set[Any]]) -> Tally:
    pairs = list(zip(gold, predicted, strict=True))
    return _tally([[2 * len(g & s)] for g, s in pairs], [[len(g) + len(s)] for g, s in pairs])


def f1_by(
    labels: Sequence[Any],
    label_of: Callable[[Any], Any],
    gold: Sequence[set[Any]],
    predicted: Sequence[set[Any]],
) -> Tally:
    """Return macro F1: the mean over *labels* of each one's F1."""

    def of(label: Any, many: Sequence[set[Any]]) -> list[set[Any]]:
        return [{fact for fact in facts if label_of(fact) == label} for facts in many]

    each = [micro_f1(of(label, gold), of(label, predicted)) for label in labels]
    if not each:
        return micro_f1(gold, predicted)
    return Tally(
        np.concatenate([tally.num_NL for tally in each], axis=1),
        np.concatenate([tally.den_NL for tally in each], axis=1),
    )


def _relation_tallies(gold: list[set[Any]], predicted: list[set[Any]]) -> dict[str, Tally]:
    types = sorted({fact[0] for facts in gold for fact in facts})
    macro = f1_by(types, lambda fact: fact[0], gold, predicted)
    return {"micro_f1": micro_f1(gold, predicted), "macro_f1": macro}


def _label_tally(gold: Sequence[Any], predicted: Sequence[Any]) -> Tally:
    labels = sorted(set(gold))
    return f1_by(labels, lambda label: label, [{g} for g in gold], [{s} for s in predicted])


def _entity_tallies(gold: list[set[Any]], predicted: list[set[Any]]) -> dict[str, Tally]:
    """Count entities with nervaluate, one example at a time; counts add up to its overall ones."""
    try:
        from nervaluate import Evaluator
    except ImportError as error:
        raise Unavailable("NER scores need nervaluate: pip install 'galenic[train]'") from error

    types = sorted({str(span[2]) for spans in (*gold, *predicted) for span in spans})
    counts: dict[str, list[tuple[float, float]]] = {"strict": [], "ent_type": []}
    for g, s in zip(gold, predicted, strict=True):
        if not (g or s):
            for listed in counts.values():
                listed.append((0.0, 0.0))
            continue
        evaluated = Evaluator([_plain(g)], [_plain(s)], tags=types, loader="dict").evaluate()
        for kind, listed in counts.items():
            found = evaluated["overall"][kind]
            listed.append((2 * found.correct, found.actual + found.possible))
    return {
        name: _tally([[num] for num, _ in counts[kind]], [[den] for _, den in counts[kind]])
        for name, kind in (("strict_f1", "strict"), ("relaxed_f1", "ent_type"))
    }


def _plain(spans: set[Any]) -> list[dict[str, Any]]:
    # nervaluate's ends are inclusive; with ours, adjacent spans would overlap.
    return [{"label": t, "start": start, "end": end - 1} for start, end, t in sorted(spans)]


def _same(gold: Sequence[Any], predicted: Sequence[Any]) -> Tally:
    return _mean(float(g == s) for g, s in zip(gold, predicted, strict=True))


def token_f1(gold: str, predicted: str | None) -> float:
    """Return the F1 of words after SQuAD's normalization (arXiv 1606.05250)."""
    left, right = _words(gold), _words(predicted or "")
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right)) if common else float(left == right)


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def rouge_l(gold: Sequence[str], predicted: Sequence[str | None]) -> list[float]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise Unavailable("ROUGE needs rouge-score: pip install 'galenic[train]'") from error

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(gold, predicted, strict=True)
    return [float(scorer.score(g, s or "")["rougeL"].fmeasure) for g, s in pairs]


def _mean(values: Iterable[float]) -> Tally:
    each = [[float(value)] for value in values]
    return _tally(each, [[1.0] for _ in each])


def _tally(num: list[list[float]], den: list[list[float]]) -> Tally:
    return Tally(np.array(num, dtype=np.float64), np.array(den, dtype=np.float64))
