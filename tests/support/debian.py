"""Programs of Debian's that tests run for real."""

import os
import shutil
import subprocess


def program(name: str, package: str) -> str:
    """Return the path of a program; root installs its package where it is missing."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if found := shutil.which(name, path=path):
        return found
    if os.geteuid() != 0:
        raise RuntimeError(f"these tests need {name}: apt-get install {package}")
    install(package)
    found = shutil.which(name, path=path)
    assert found, f"Debian's {package} brings {name}"
    return found


def install(package: str) -> None:
    """Install a package, without the services that it would start."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    words = ["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    for command in (["update"], [*words, package]):
        subprocess.run(
            ["apt-get", "-q", *command], check=True, env=environment, capture_output=True
        )
