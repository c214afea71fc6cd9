"""
Writes and reads the lists that NER and RE answer: one ``type: item`` per line, ``none`` if empty.
"""

import re
from collections.abc import Sequence

from galenic_adapters.tasks.base import Completion, Grammar, Reading
from galenic_adapters.tasks.confidence import probability
from galenic_adapters.tasks.spans import Pair

NOTHING = "none"
LINE_END = re.compile(r"\s*[\n\r]\s*")


def list_grammar(types: Sequence[str], item: str) -> Grammar:
    """Return the grammar of lists with these *types* and items of the GBNF expression *item*."""
    names = " | ".join(f'"{_escaped(name)}"' for name in types)
    return Grammar(
        f'root ::= "{NOTHING}" | line ("\\n" line)*\n'
        f'line ::= ({names}) ": " {item}\n'
        f"words ::= [^ \\n] [^\\n]*\n"
    )


def _escaped(literal: str) -> str:
    return literal.replace("\\", "\\\\").replace('"', '\\"')


def write_lines(items: Sequence[tuple[str, str]]) -> str:
    """Write the distinct (type, item) pairs in order; an item's line ends become spaces."""
    lines = (f"{type_}: {LINE_END.sub(' ', item.strip())}" for type_, item in items)
    return "\n".join(dict.fromkeys(lines)) or NOTHING


def read_lines(
    completion: Completion, types: Sequence[str]
) -> tuple[dict[Pair, float | None] | None, Reading]:
    """
    Read the distinct pairs with the probability of each; of a truncated answer, its complete lines.

    A probability is None if the completion has none. The pairs are None if a line does not belong
    to such a list.
    """
    truncated = completion.finish == "length"
    lines = completion.text.split("\n")
    if truncated:
        lines = lines[:-1]
    elif lines == [NOTHING]:
        lines = []
    read: dict[Pair, float | None] = {}
    for number, line in enumerate(lines):
        pair = _pair(line, types)
        if pair is None:
            return None, Reading.OFF_SCHEMA
        read.setdefault(pair, probability(_logprob(completion, number)))
    return read, Reading.TRUNCATED if truncated else Reading.CLEAN


def _logprob(completion: Completion, line: int) -> float | None:
    measured = completion.line_logprobs
    return measured[line] if line < len(measured) else None


def _pair(line: str, types: Sequence[str]) -> Pair | None:
    # Longest first, so that a type which contains ": " is not cut short.
    for type_ in sorted(types, key=len, reverse=True):
        if line.startswith(type_ + ": ") and line[len(type_) + 2 :].strip():
            return type_, line[len(type_) + 2 :]
    return None
