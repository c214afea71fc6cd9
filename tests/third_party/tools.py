"""Other people's programs, each run in their environment against our server."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

COUNT = re.compile(r"(\d+) (passed|failed|error|skipped|xfailed|xpassed)")


@dataclass(frozen=True)
class Tools:
    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, cwd: Path, **more: str) -> str:
        """What the program said; it must end well."""
        done = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env=os.environ | self.environment | more | {"PYTHONPATH": "", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-12_000:]
        return done.stdout

    def pytest(self, *arguments: str | Path, cwd: Path, **more: str) -> dict[str, int]:
        """How many of its tests passed, and how many did not."""
        said = self.run(
            "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=cwd, **more
        )
        return {kind: int(count) for count, kind in COUNT.findall(said.splitlines()[-1])}
