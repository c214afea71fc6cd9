"""Virtual ids before vLLM's newer runner, which needs a GPU, or Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

FACTS = Path(__file__).parent / "interpreted/guards_v2_facts.py"
# Once all is said it ends at once: a native library crashed twice in what comes after.
RUN = """
import os, sys, pytest

class End:
    def pytest_sessionfinish(self, exitstatus):
        self.status = exitstatus

    def pytest_unconfigure(self, config):
        config.get_terminal_writer().flush()
        os._exit(self.status)

pytest.main(sys.argv[1:], plugins=[End()])
"""


class TestItsOwnKernels:
    def test_meet_no_virtual_id(self):
        """
        As told there, fact by fact. Triton decides when it is imported whether it interprets, so
        they have a process of their own.
        """
        done = subprocess.run(
            [sys.executable, "-c", RUN, "-q", "-p", "no:cacheprovider", FACTS],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

        assert 0 == done.returncode, done.stdout
        assert "5 passed" in done.stdout
