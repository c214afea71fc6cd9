"""Virtual ids before vLLM's newer runner, which needs a GPU, or Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

FACTS = Path(__file__).parent / "interpreted/guards_v2_facts.py"
# Without the process's usual end, in which a native library crashed once after all had passed.
RUN = "import os, sys, pytest; c = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(c)"


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
