"""Regular expressions of callers, before any compiler sees them."""

import pytest

from galenic_adapters.errors import BadInput
from galenic_server.schemas.patterns import check_pattern

PATH = "schema.pattern"


def problem_of(pattern: object) -> str:
    with pytest.raises(BadInput) as refused:
        check_pattern(PATH, pattern)
    assert PATH == refused.value.field
    return refused.value.problem


class TestAPattern:
    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            r"^\d{3}-\d{2}-\d{4}$",
            r"^(?:ICD-10|SNOMED):[A-Z0-9.]{1,20}$",
            r"^(?<year>\d{4})-(0[1-9]|1[0-2])$",
            r"\w+@\w+\.[a-z]{2,}",
            r"^[^\n]*?$",
            r"^\u00e9\x41\$\-\/$",
            r"^[\s\S]+$",
            r"(a*)*b",
        ],
    )
    def test_of_ordinary_kind_is_taken(self, pattern: str):
        """
        Classes, groups, counts and escapes that the compiler obeys.
        """
        check_pattern(PATH, pattern)

    @pytest.mark.parametrize(
        ("pattern", "named"),
        [
            (r"^(?!20)\d{2}$", "look-around"),
            (r"^a(?=b)b$", "look-around"),
            (r"(?<=a)b", "look-around"),
            (r"(?i)abc", "modifier"),
            (r"(a)\1", "back reference"),
            (r"(?<n>a)\k<n>", "back reference"),
            (r"\bword\b", "word boundary"),
            (r"^\p{L}+$", "Unicode class"),
            (r"[\p{L}]", "Unicode class"),
            (r"\z", "an escape"),
            (r"[[:alpha:]]", "POSIX class"),
            (r"^a$|^b$", "anchor"),
        ],
    )
    def test_that_the_engine_would_not_obey_is_named(self, pattern: str, named: str):
        """
        An answer that breaks it would be worse than none.
        """
        assert named in problem_of(pattern)

    @pytest.mark.parametrize("pattern", ['a"b', r"\\", r"^\n$", "\t", r"\x1f", r"\ud83d", r'["\\]'])
    def test_of_what_json_escapes_is_refused(self, pattern: str):
        """
        The compiler would let it stand as it is, in a string that ends there or is no JSON.
        """
        assert "JSON string" in problem_of(pattern)

    @pytest.mark.parametrize(
        "pattern", ["a" + "+" * 511, "a**", "a{2}{3}", "(|+)", "^*", "a+++", "?", "(?:)*+"]
    )
    def test_with_stacked_repetitions_is_refused(self, pattern: str):
        """
        Their parser recurses once for each, and its process ends with its stack.
        """
        assert "repeats a repetition" in problem_of(pattern)

    @pytest.mark.parametrize("pattern", ["(" * 17 + "a" + ")" * 17, "(?:" * 100])
    def test_with_deep_groups_is_refused(self, pattern: str):
        """
        Sixteen levels are more than anybody reads.
        """
        assert "more deeply than 16" in problem_of(pattern)
        check_pattern(PATH, "(" * 16 + "a" + ")" * 16)

    @pytest.mark.parametrize(
        "pattern",
        [
            "^(.{0,100}){0,100}$",
            "((a{9}){9}){9}",
            "(abc{3}){128}",
        ],
    )
    def test_with_large_counts_is_refused(self, pattern: str):
        """
        They multiply where they are nested: the compiler writes them out.
        """
        assert "more than 512" in problem_of(pattern)

    @pytest.mark.parametrize(
        "pattern", ["(a|b){1,5000}", "a{99999999999999999999}", "a{129,}", "a{0,129}"]
    )
    def test_with_a_count_that_the_compiler_fails_on_is_refused(self, pattern: str):
        """
        Up to 128 it obeys.
        """
        assert "counts to more than 128" == problem_of(pattern)
        check_pattern(PATH, "^(a|b){1,128}$")

    @pytest.mark.parametrize("pattern", ["[a", "a]", "a{,3}", "{", "}", "[]", "a\\", "(a", "a)"])
    def test_that_is_not_whole_is_refused(self, pattern: str):
        """
        A bracket that belongs to nothing means different things to different readers.
        """
        problem_of(pattern)

    def test_that_is_long_is_refused_with_both_numbers(self):
        """
        One of half a megabyte is refused at once.
        """
        assert "500,000 characters; at most 512" in problem_of("a" * 500_000)

    @pytest.mark.parametrize("pattern", [3, None, ["a"], True])
    def test_that_is_no_string_is_refused(self, pattern: object):
        """
        The compiler's own words for that would quote it.
        """
        assert "is not a string" == problem_of(pattern)

    def test_is_not_quoted(self):
        """
        It may hold a patient's name.
        """
        for pattern in ("Wilhelmina(?=x)", r"Wilhelmina\p{L}", "Wilhelmina**", "(Wilhelmina"):
            assert "Wilhelmina" not in problem_of(pattern)
