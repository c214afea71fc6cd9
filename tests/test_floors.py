"""
The floors of the house: imports go down, or stay on their floor, and never up.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top floor down; a name stands for a module or for a whole folder.
FLOORS = {
    "galenic_client": [],
    "galenic_server": [
        {"__main__", "main", "bench"},
        {"http"},
        {"answering"},
        {"schemas", "fleet"},
        {"settings", "environment", "metrics", "registry"},
        {"tenancy", "admission"},
        {"audit"},
        {"engine", "database"},
        {"logs", "secret"},
    ],
    "galenic_adapters": [
        {"cli"},
        {"study"},
        {"training"},
        {"evaluation"},
        {"data", "backbone", "package", "doctor"},
        {"tasks", "factor", "shape", "refs"},
        {"errors", "files", "progress"},
    ],
}
SHELVES = {
    "galenic_server": ROOT / "server",
    "galenic_adapters": ROOT / "adapters",
    "galenic_client": ROOT / "clients/python",
}
MAY_IMPORT = {
    "galenic_server": {"galenic_adapters"},
    "galenic_adapters": {"galenic_client"},  # its command asks servers
    "galenic_client": set(),
}
# A library, and the only places of ours that may know it.
HTTP = {"galenic_server.http"}
SQL = {f"galenic_server.{name}" for name in ("database", "registry", "tenancy", "audit")}
TENSORS = {
    *(f"galenic_adapters.{name}" for name in ("factor", "package", "backbone", "evaluation")),
    *("galenic_adapters.training", "galenic_adapters.study"),
    *("galenic_server.engine", "galenic_server.bench"),
}
ONLY_IN = {
    "vllm": {"galenic_server.engine.vllm"},
    "fastapi": HTTP,
    "starlette": HTTP,
    "uvicorn": HTTP,
    "sqlalchemy": SQL,
    "alembic": SQL,
    "typer": {"galenic_adapters.cli"},
    "torch": TENSORS,
}
# A place, and what it must not know.
NEVER_IN = {
    place: {"torch", "transformers"}
    for place in (
        *(f"galenic_adapters.{name}" for name in ("tasks", "refs", "errors", "files")),
        "galenic_client",
    )
}
# Imports that break a rule above, and why; one that is no longer there has to leave this list.
EXCEPTIONS = {
    ("galenic_server.main", "uvicorn"): "main runs the server that it made",
    ("galenic_server.bench.bare", "vllm"): "the bench measures vLLM without us",
}


@dataclass(frozen=True, slots=True)
class Import:
    """*source* imports *target* at *line*; nested ones (*is_late*) happen only when called."""

    source: str
    target: str
    line: int
    is_late: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def imports_of(shelf: Path, package: str) -> list[Import]:
    return [
        found
        for path in sorted((shelf / package).rglob("*.py"))
        for found in _imports_in(path, _module(path.relative_to(shelf)))
    ]


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports_in(path: Path, module: str) -> Iterator[Import]:
    tree = ast.parse(path.read_text(), path.name)
    for node in ast.walk(tree):
        is_late = node not in tree.body
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno, is_late)
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` imports the module too.
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            for name in node.names:
                yield Import(module, f"{node.module}.{name.name}", node.lineno, is_late)


def _is_in(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def _floor(module: str) -> int | None:
    """Counted from the top; none for a package itself, which holds nothing."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    for number, names in enumerate(FLOORS[package]):
        if name in names:
            return number
    return None


def upward(imports: list[Import]) -> list[str]:
    return [str(found) for found in imports if _goes_up(found)]


def _goes_up(found: Import) -> bool:
    here, there = found.source.partition(".")[0], found.target.partition(".")[0]
    if there not in SHELVES:
        return False
    if here != there:
        return there not in MAY_IMPORT[here]
    source, target = _floor(found.source), _floor(found.target)
    return source is not None and target is not None and target < source


def misplaced(imports: list[Import]) -> list[str]:
    """Libraries known where they must not be, but for the exceptions."""
    return [str(found) for found in imports if _is_misplaced(found) and not _exceptions(found)]


def _is_misplaced(found: Import) -> bool:
    return any(
        _is_in(found.target, library) and not any(_is_in(found.source, at) for at in places)
        for library, places in ONLY_IN.items()
    ) or any(
        _is_in(found.source, place) and any(_is_in(found.target, name) for name in libraries)
        for place, libraries in NEVER_IN.items()
    )


def _exceptions(found: Import) -> set[tuple[str, str]]:
    """Those that *found* needs."""
    return {
        (source, target)
        for source, target in EXCEPTIONS
        if found.source == source and _is_in(found.target, target)
    }


def rings(imports: list[Import]) -> list[str]:
    """Modules that import each other while being imported."""
    modules = {found.source for found in imports}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in imports:
        parent = found.target.rpartition(".")[0]
        target = found.target if found.target in modules else parent
        if target in modules and target != found.source and not found.is_late:
            graph[found.source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(params=SHELVES)
def package(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def imports(package: str) -> list[Import]:
    found = imports_of(SHELVES[package], package)
    assert found, f"{package} is not where this test looks"
    return found


class TestFloors:
    def test_imports_go_down(self, imports):
        """
        No module imports from a floor above its own, nor from a shelf that rests on its own.
        """
        assert [] == upward(imports)

    def test_libraries_stay_where_they_belong(self, imports):
        """
        HTTP is known to `http` only, SQL to the rooms of rows, vLLM to the engine, typer to the
        command, tensors to what computes.
        """
        assert [] == misplaced(imports)

    def test_no_exception_outlives_its_import(self):
        """
        The list of exceptions only shrinks.
        """
        every = [one for package, shelf in SHELVES.items() for one in imports_of(shelf, package)]
        needed = [_exceptions(found) for found in every if _is_misplaced(found)]

        assert set(EXCEPTIONS) == set().union(*needed)

    def test_no_ring(self, imports):
        """
        No two modules need each other in order to be imported.
        """
        assert [] == rings(imports)

    def test_every_module_has_a_floor(self, package):
        """
        A new module is placed in the table above, or this test does not know it.
        """
        shelf = SHELVES[package]
        modules = {_module(path.relative_to(shelf)) for path in shelf.rglob("*.py")}

        assert [] == sorted(
            module
            for module in modules
            if FLOORS[package] and "." in module and _floor(module) is None
        )

    def test_tests_mirror_the_folders(self, package):
        """
        A folder with tests of a package's own is named as the folder that it tests.
        """
        tests = ROOT / "tests" / package.removeprefix("galenic_")
        files = tests.rglob("test_*.py")

        assert [] == sorted(
            str(folder)
            for folder in {file.parent.relative_to(tests) for file in files}
            if not (SHELVES[package] / package / folder).is_dir()
        )

    def test_light_modules_are_light(self):
        """
        Importing tasks, references, errors or the client loads neither torch nor transformers.
        """
        names = "galenic_adapters.tasks.lookup, galenic_adapters.refs, galenic_client"
        code = f"import sys, {names}; print({{'torch', 'transformers'}} & set(sys.modules))"

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert ("set()", "") == (done.stdout.strip(), done.stderr)


class TestTheTest:
    """A planted fault is found, so an empty list means something."""

    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ("galenic_server/answering/service.py", "from galenic_server.http.routes import tasks"),
            ("galenic_server/engine/slots.py", "import galenic_server.registry"),
            ("galenic_server/tenancy/keyring.py", "from galenic_server.http import app"),
            (
                "galenic_adapters/package/file.py",
                "def late():\n    import galenic_adapters.training.loop",
            ),
            ("galenic_adapters/errors.py", "from galenic_adapters.refs import AdapterRef"),
            ("galenic_adapters/cli/main.py", "from galenic_server.main import main"),
            ("galenic_client/blocking.py", "from galenic_adapters.errors import GalenicError"),
        ],
    )
    def test_upward(self, tmp_path, path, line):
        assert 1 == len(upward(self._planted(tmp_path, path, line)))

    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ("galenic_server/answering/service.py", "from fastapi import HTTPException"),
            ("galenic_server/main.py", "import vllm"),
            ("galenic_server/http/deps.py", "import sqlalchemy as sa"),
            ("galenic_server/engine/slots.py", "from vllm import SamplingParams"),
            ("galenic_adapters/backbone/constraints.py", "from vllm.sampling_params import X"),
            ("galenic_adapters/training/runs.py", "import typer"),
            ("galenic_adapters/tasks/ner.py", "import torch.nn"),
            ("galenic_client/blocking.py", "from torch import Tensor"),
        ],
    )
    def test_misplaced(self, tmp_path, path, line):
        assert 1 == len(misplaced(self._planted(tmp_path, path, line)))

    def test_ring(self, tmp_path):
        self._planted(tmp_path, "galenic_adapters/factor.py", "import galenic_adapters.refs")
        found = self._planted(
            tmp_path, "galenic_adapters/refs.py", "from galenic_adapters.factor import Factor"
        )

        assert {"galenic_adapters.factor", "galenic_adapters.refs"} == set(rings(found))

    @staticmethod
    def _planted(shelf: Path, path: str, line: str) -> list[Import]:
        file = shelf / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n")
        return imports_of(shelf, path.partition("/")[0])
