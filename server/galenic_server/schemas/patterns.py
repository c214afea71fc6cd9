"""
Accepts the regular expressions that the grammar compiler obeys.

It parses them by recursion, unrolls their counts, and passes over what it does not know, with a
line in the log that quotes the pattern. So they are checked here first, by one walk over tokens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from galenic_adapters.errors import BadInput

MAX_CHARACTERS = 512
MAX_GROUPS = 16
MAX_REPEATS = 128  # beyond it xgrammar 0.2.8 fails, with its cache on as vLLM has it
MAX_UNROLLED = 512  # the compiler's time grows with its square

TOKEN = re.compile(
    r"""
      (?P<escape>    \\ (?: x[0-9A-Fa-f]{2} | u[0-9A-Fa-f]{4} | c[A-Za-z] | . ) )
    | (?P<group>     \( (?: \?: | \?<[A-Za-z]+> )? (?! \? ) )
    | (?P<modifier>  \( \? )
    | (?P<close>     \) )
    | (?P<repeat>    (?: [*+?] | \{ \d+ (?: , \d* )? \} ) \?? )
    | (?P<class>     \[ \^? (?: \\. | [^\]\\] )+ \] )
    | (?P<anchor>    [\^$] )
    | (?P<or>        \| )
    | (?P<stray>     [\[\]{}\\] )
    | (?P<literal>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
MEMBER = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|c[A-Za-z]|.)|.", re.DOTALL)
NAMED_CLASSES = frozenset("dDwWsS")
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
UNKNOWN_ESCAPES = {
    **dict.fromkeys("123456789k", "a back reference"),
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("pP", "a Unicode class"),
}


def check_pattern(path: str, pattern: object) -> None:
    """Raise `BadInput` for what the compiler would not obey, or would take too long over."""
    if not isinstance(pattern, str):
        raise BadInput(path, "is not a string")
    if len(pattern) > MAX_CHARACTERS:
        size = f"is a pattern of {len(pattern):,} characters; at most {MAX_CHARACTERS} are taken"
        raise BadInput(path, size)
    unrolled = Unrolled()
    for kind, text, is_first, is_last in _tokens(pattern):
        problem = _problem(kind, text, is_edge=is_first if text == "^" else is_last)
        problem = problem or unrolled.take(kind, text)
        if problem is not None:
            raise BadInput(path, problem)
    if len(unrolled.groups) > 1:
        raise BadInput(path, "opens a group that is not closed")


@dataclass
class Unrolled:
    """
    Counts the characters of a pattern with its repetitions written out.

    groups: counts of the open groups, the outermost first.   last: count of what a repetition would
    repeat; None if nothing may be repeated.
    """

    groups: list[int] = field(default_factory=lambda: [0])
    last: int | None = None

    def take(self, kind: str, text: str) -> str | None:
        """Advance by a token; returns what is wrong with it at its place, if anything."""
        if kind == "group":
            self.groups.append(0)
            self.last = None
            if len(self.groups) > MAX_GROUPS + 1:
                return f"nests groups more deeply than {MAX_GROUPS} levels"
        elif kind == "close":
            if len(self.groups) == 1:
                return "closes a group that was not opened"
            self.last = self.groups.pop()
            self.groups[-1] += self.last
        elif kind == "repeat":
            return self._repeat(text)
        elif kind in ("or", "anchor"):
            self.last = None
        else:
            self.last = 1
            self.groups[-1] += 1
        return None

    def _repeat(self, text: str) -> str | None:
        if self.last is None:
            return "repeats a repetition, or nothing"
        if _count(text) > MAX_REPEATS:
            return f"counts to more than {MAX_REPEATS}"
        self.groups[-1] += self.last * (_count(text) - 1)
        self.last = None
        if self.groups[-1] > MAX_UNROLLED:
            return f"stands for more than {MAX_UNROLLED} characters, its counts written out"
        return None


def _tokens(pattern: str) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield each token's kind and text, and whether it is the first and the last."""
    for found in TOKEN.finditer(pattern):
        assert found.lastgroup is not None, "every alternative has a name"
        yield found.lastgroup, found[0], found.start() == 0, found.end() == len(pattern)


def _problem(kind: str, text: str, *, is_edge: bool) -> str | None:
    """Return what the compiler does not know or obey in a token, if anything."""
    if kind == "modifier":
        return "holds a look-around or a modifier, which the engine does not obey"
    if kind == "anchor" and not is_edge:
        return "holds an anchor elsewhere than at its ends; write ^(a|b)$"
    if kind == "stray":
        return "holds a bracket, brace or backslash that belongs to nothing"
    if kind in ("escape", "literal"):
        return _problem_of_literal(text)
    return _problem_of_class(text) if kind == "class" else None


def _problem_of_literal(text: str) -> str | None:
    if (unknown := _unknown(text)) is not None:
        return unknown
    if _is_escaped_in_json(text):
        return "holds a quote, backslash or control character, which a JSON string would escape"
    return None


def _problem_of_class(text: str) -> str | None:
    inner = text[1:-1]
    if "[:" in text:
        return "holds a POSIX class"
    members = MEMBER.findall(inner.removeprefix("^"))
    if not inner.startswith("^") and all(_is_escaped_in_json(member) for member in members):
        return "holds a class of nothing that a JSON string holds unescaped"
    return next((problem for member in members if (problem := _unknown(member))), None)


def _unknown(text: str) -> str | None:
    if len(text) != 2 or text[0] != "\\" or not text[1].isalnum():
        return None
    if text[1] in NAMED_CLASSES or text[1] in CONTROLS:
        return None
    return f"holds {UNKNOWN_ESCAPES.get(text[1], 'an escape')}, which the engine does not obey"


def _is_escaped_in_json(text: str) -> bool:
    """Tell whether *text*, a character or its escape, is written differently in a JSON string."""
    if text[0] == "\\" and text[1] in NAMED_CLASSES:
        return False
    character = _character(text)
    return character in '"\\' or character < " " or "\ud800" <= character <= "\udfff"


def _character(text: str) -> str:
    if text[0] != "\\" or len(text) == 1:
        return text
    if len(text) == 2:
        return CONTROLS.get(text[1], text[1])
    return "\1" if text[1] == "c" else chr(int(text[2:], 16))


def _count(text: str) -> int:
    """Return the count of a repetition: its largest number, or 1 if it has none."""
    return max(1, *(int(digits) for digits in re.findall(r"\d{1,9}", text)), 1)
