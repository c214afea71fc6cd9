"""The security document says what is so: every test that it names is there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "deploy" / "SECURITY.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)(?:::(\w+))?`")
CASES = re.compile(r"^\| ([\d, ]+) ", re.M)


def found_in(file: str, name: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    methods = [one for found in classes for one in found.body if isinstance(one, ast.FunctionDef)]
    return {one.name for one in methods if one.name.startswith("test_")}


class TestTheDocument:
    def test_names_tests_that_are_there(self):
        """
        A test that is renamed or dropped is missed here.
        """
        named = NAMED.findall(DOCUMENT.read_text())
        missing = [
            "::".join(filter(None, one))
            for one in named
            if not (found := found_in(*one[:2])) or (one[2] and one[2] not in found)
        ]

        assert len(named) > 60
        assert [] == missing

    def test_has_a_row_for_every_case(self):
        """
        All 52 of them.
        """
        told = ",".join(CASES.findall(DOCUMENT.read_text()))

        assert list(range(1, 53)) == sorted(int(number) for number in re.findall(r"\d+", told))
