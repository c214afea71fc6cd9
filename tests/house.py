"""
Prints figures about the code's shape, of the working tree or of an earlier revision.

    python -m tests.house [--at REV]
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]

FRAGMENT = re.compile(r"(What|Whether|Who|Whose|Whom|Which|Where|How|Those|The same|Of|As|Such)\b")
"""Words that begin a phrase without a verb."""
NOUNS = re.compile(r"(The|An?|One|Every|All|Each|No|Its)\b")
"""Words that begin a noun, often of a phrase without a verb; such docstrings are counted apart."""
AN_UPLOADS_WAY = {
    "galenic_server": {
        *("registry/offers.py", "registry/rows.py", "registry/uploads.py", "registry/publisher.py"),
        *("http/routes/adapters.py", "registry.py", "routes/adapters.py"),
    },
    "galenic_adapters": {"store.py", "many.py", "uploads.py"},
}
"""Files that an upload passes through, under their names of today and of earlier revisions."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
N = TypeVar("N", bound=ast.AST)


@dataclass(frozen=True, slots=True)
class Module:
    """Holds a parsed file with its path below its package."""

    package: str
    path: Path
    num_lines: int
    tree: ast.Module

    @property
    def folder(self) -> str:
        parts = self.path.parts
        return f"{self.package}/{parts[0]}" if len(parts) > 1 else self.package


def modules_of(shelves: Mapping[str, Path]) -> list[Module]:
    """Parse every file of the packages that exist below *shelves*."""
    return [
        Module(package, path.relative_to(shelf / package), len(text.splitlines()), ast.parse(text))
        for package, shelf in shelves.items()
        for path in sorted((shelf / package).rglob("*.py"))
        for text in [path.read_text("utf-8")]
    ]


def report(root: Path) -> Iterator[str]:
    """Yield the figures of the code below *root*, line by line."""
    floors = floors_of(root)
    modules = modules_of(floors.SHELVES)
    yield from folders(modules)
    yield lengths(modules)
    yield from docstrings(modules)
    yield imports(floors)
    yield largest(modules)
    yield types_of_an_upload(modules)


def floors_of(root: Path) -> Any:
    """Load the floors' test of the revision in *root*: each has its own table and its own files."""
    spec = spec_from_file_location("floors", root / "tests/test_floors.py")
    assert spec is not None and spec.loader is not None
    floors = module_from_spec(spec)
    sys.modules[spec.name] = floors  # dataclasses look their module up
    spec.loader.exec_module(floors)
    return floors


def folders(modules: Sequence[Module]) -> Iterator[str]:
    """Count the files and lines of each folder."""
    files = Counter(module.folder for module in modules)
    lines = Counter[str]()
    for module in modules:
        lines[module.folder] += module.num_lines
    for folder in sorted(files):
        yield f"{folder:<36} {files[folder]:>4} files {lines[folder]:>7,} lines"
    yield f"{'all':<36} {files.total():>4} files {lines.total():>7,} lines"


def lengths(modules: Sequence[Module]) -> str:
    """Measure functions in lines, without decorators."""
    lines = {f: f.end_lineno - f.lineno + 1 for f in _functions(modules) if f.end_lineno}
    longest = max(lines, key=lambda function: lines[function])
    return (
        f"functions: {len(lines):,}, median {median(lines.values()):g} lines,"
        f" p90 {quantiles(lines.values(), n=10)[-1]:.0f}, longest {lines[longest]} ({longest.name})"
    )


def docstrings(modules: Sequence[Module]) -> Iterator[str]:
    """Count docstrings, and those that begin as a fragment, for each kind of thing."""
    kinds: dict[str, Sequence[Function | ast.ClassDef | ast.Module]] = {
        "functions": _functions(modules),
        "classes": list(_nodes(modules, ast.ClassDef)),
        "modules": [module.tree for module in modules if module.tree.body],
    }
    for kind, nodes in kinds.items():
        texts = [text for node in nodes if (text := ast.get_docstring(node))]
        fragments = [text for text in texts if FRAGMENT.match(text)]
        nouns = [text for text in texts if NOUNS.match(text) and not FRAGMENT.match(text)]
        yield (
            f"docstrings of {kind}: {len(texts):,} of {len(nodes):,} ({_share(texts, nodes)}),"
            f" {len(fragments):,} begin as a fragment ({_share(fragments, texts)}),"
            f" {len(nouns):,} with a noun ({_share(nouns, texts)})"
        )


def imports(floors: Any) -> str:
    """Count imports that go up, misplaced libraries and modules in circles, by the floors' test."""
    found = [
        i for package, shelf in floors.SHELVES.items() for i in floors.imports_of(shelf, package)
    ]
    in_circles = set(floors.rings(found))
    return (
        f"imports: {len(found):,}, {len(floors.upward(found))} go up,"
        f" {len(floors.misplaced(found))} of misplaced libraries,"
        f" {len(in_circles)} modules in circles"
    )


def largest(modules: Sequence[Module]) -> str:
    """Find the class with the most public methods, with those inherited from our own classes."""
    classes = {node.name: node for node in _nodes(modules, ast.ClassDef)}
    counts = {name: len(_public_methods(node, classes)) for name, node in classes.items()}
    name = max(counts, key=lambda name: counts[name])
    return f"largest class: {name}, {counts[name]} public methods"


def types_of_an_upload(modules: Sequence[Module]) -> str:
    """Count the classes in the files that an upload passes through."""
    passed = [m for m in modules if m.path.as_posix() in AN_UPLOADS_WAY.get(m.package, ())]
    names = [node.name for node in _nodes(passed, ast.ClassDef)]
    return f"types on an upload's way: {len(names)} ({', '.join(names)})"


def _nodes(modules: Sequence[Module], *kinds: type[N]) -> Iterator[N]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, kinds):
                yield node


def _functions(modules: Sequence[Module]) -> list[Function]:
    return list(_nodes(modules, ast.FunctionDef, ast.AsyncFunctionDef))


def _public_methods(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> set[str]:
    own = {f.name for f in node.body if isinstance(f, Function) and not f.name.startswith("_")}
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    bases = [classes[name] for name in names if name in classes and classes[name] is not node]
    return own.union(*(_public_methods(base, classes) for base in bases))


def _share(part: Sequence[object], whole: Sequence[object]) -> str:
    return f"{len(part) / max(1, len(whole)):.0%}"


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """Unpack the sources of a git revision into a temporary folder."""
    packed = subprocess.run(["git", "archive", name], cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--at", metavar="REV", help="a git revision; the working tree if unset")
    at = parser.parse_args().at
    with revision(at) if at else nullcontext(ROOT) as root:
        for line in report(root):
            print(line)  # noqa: T201  the command prints its result


if __name__ == "__main__":
    main()
