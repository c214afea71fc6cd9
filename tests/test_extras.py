"""
What `galenic`, `galenic[train]` and `galenic[server]` install is enough for what they are for.

A folder of links holds the packages that pip would install, found by their metadata, and Galenic's
own code. An interpreter that sees this folder and Python's own library imports every module.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from galenic_adapters.doctor import LEFT_OUT
from tests.support.tools import ROOT
from tests.test_floors import SHELVES, imports_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SERVER = (
    "galenic_server.engine.vllm",  # vLLM's plugin
    "galenic_server.bench.bare",  # measures vLLM itself
    "galenic_server.database.migrations.env",  # Alembic runs it
)
SCRIPT = """
import importlib, importlib.util, json, sys
folder, modules, late = json.load(sys.stdin)
sys.path.insert(0, folder)
failed = {}
for name in modules:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
for name in late:
    if importlib.util.find_spec(name) is None:
        failed[name] = "is not there"
json.dump(failed, sys.stdout)
"""


def closure(wanted: list[Requirement]) -> set[str]:
    """Return the names of the distributions that pip installs for *wanted*."""
    found: dict[str, set[str]] = {}
    while wanted:
        one = wanted.pop()
        asked = {"", *one.extras} - found.get(one.name, set())
        if one.name in LEFT_OUT or not asked:
            continue
        found.setdefault(one.name, set()).update(asked)
        needs = map(Requirement, distribution(one.name).requires or ())
        wanted += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in asked)
        ]
    return set(found)


def fill(folder: Path, names: set[str]) -> None:
    """Link the files of the distributions of these *names*, and Galenic's own, into *folder*."""
    sources = {name: shelf / name for name, shelf in SHELVES.items()}
    for name in names:
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}
        sources |= {top: Path(str(installed.locate_file(top))) for top in tops}
    for name, source in sources.items():
        (folder / name).symlink_to(source)


def modules_of(package: str, but: tuple[str, ...] = ()) -> Iterator[str]:
    shelf = SHELVES[package]
    for path in sorted((shelf / package).rglob("*.py")):
        name = ".".join(path.relative_to(shelf).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__") and not name.startswith(but):
            yield name


def late_imports(package: str, but: tuple[str, ...] = ()) -> set[str]:
    """Return the top-level names that functions of *package* import when they are called."""
    found = (one for one in imports_of(SHELVES[package], package) if one.is_late)
    return {one.target.partition(".")[0] for one in found if not one.source.startswith(but)}


@pytest.mark.parametrize(
    ("extra", "package", "optional", "elsewhere"),
    [
        ("", "galenic_client", (), set()),
        ("train", "galenic_adapters", (), {"datasets"}),
        ("server", "galenic_server", NOT_SERVER, {"matplotlib", "vllm"}),
    ],
)
class TestAnInstallation:
    def test_imports_every_module(self, tmp_path, extra, package, optional, elsewhere):
        """
        The names last given come from elsewhere: deploy/setup chooses the build of vLLM, the extra
        `hub` brings datasets, and the bench's plots are left out where matplotlib is missing.
        """
        wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, [])
        fill(tmp_path, closure([Requirement(one) for one in wanted]))
        modules = [*modules_of(package, optional)]
        late = sorted(late_imports(package, optional) - elsewhere)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", SCRIPT],
            input=json.dumps([str(tmp_path), modules, late]),
            capture_output=True,
            text=True,
            check=False,
        )

        assert 0 == done.returncode, done.stderr
        assert {} == json.loads(done.stdout)


class TestTheCommand:
    def test_of_the_client_alone_says_what_brings_the_rest(self, tmp_path):
        """
        The command comes with every installation, its libraries only with the extras.
        """
        fill(tmp_path, closure([Requirement(one) for one in PROJECT["dependencies"]]))
        module, _, function = PROJECT["scripts"]["galenic"].partition(":")
        script = (
            f"import sys; sys.path.insert(0, sys.argv[1]); import {module} as m; m.{function}()"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )

        assert 1 == done.returncode
        assert done.stderr.startswith("galenic: the command needs typer: pip install 'galenic[")
        assert 1 == len(done.stderr.splitlines())
