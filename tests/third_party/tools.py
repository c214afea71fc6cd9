"""Other people's programs, each run in their environment against our server."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITES = Path(__file__).parent / "suites"
COUNT = re.compile(r"(\d+) (passed|failed|error|skipped|deselected|xfailed|xpassed)")
ONE_LOOP = [f"-oasyncio_default_{what}_loop_scope=session" for what in ("test", "fixture")]
ALONE = ["-c", os.devnull, "--noconftest", "-o", "asyncio_mode=auto", *ONE_LOOP]
"""Nothing of our own tests' configuration; one event loop, as cached clients live in one."""


@dataclass(frozen=True)
class Tools:
    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, cwd: Path, **more: str) -> str:
        """What the program said; it must end well."""
        done = subprocess.run(
            self._command(*command),
            cwd=cwd,
            env=self._environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-20_000:]
        return done.stdout

    @contextmanager
    def running(self, *command: str | Path) -> Iterator[None]:
        """A program that serves until the block ends."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(self._command(*command), env=self._environment(), **quiet)
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def pytest(self, *arguments: str | Path, cwd: Path, **more: str) -> dict[str, int]:
        """How many of its tests passed, and how many did not."""
        command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        said = self.run(*command, cwd=cwd, **more)
        return {kind: int(count) for count, kind in COUNT.findall(said.splitlines()[-1])}

    def suite(self, name: str, *arguments: str, **more: str) -> dict[str, int]:
        """Of one of the files beside this one."""
        return self.pytest(*ALONE, SUITES / name, *arguments, cwd=SUITES, **more)

    def _command(self, program: str | Path, *arguments: str | Path) -> list[str | Path]:
        return [self.folder / "bin" / program, *arguments]

    def _environment(self, **more: str) -> dict[str, str]:
        ours = {"PYTHONPATH": "", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return os.environ | self.environment | ours | more
