"""What our plugin does to the processes of vLLM that load it."""

import signal
import subprocess
import sys

import psutil
from vllm import ModelRegistry

from galenic_server.engine.vllm.plugin import ARCHITECTURES, register


class TestRegister:
    def test_it_may_be_called_again_and_imports_no_model(self):
        """
        Architectures are names until a backbone asks for one.
        """
        register()
        register()

        for name in ARCHITECTURES:
            assert "galenic_server.engine.vllm.models" == ModelRegistry.models[name].module_name


PARENT = """
import multiprocessing, os, time
from galenic_server.engine.vllm.plugin import end_with_parent

def live(said):
    end_with_parent()
    said.send(os.getpid())
    time.sleep(600)

heard, said = multiprocessing.Pipe()
multiprocessing.get_context("fork").Process(target=live, args=(said,)).start()
print(heard.recv(), flush=True)
time.sleep(600)
"""


class TestAProcessOfTheEngine:
    def test_ends_with_a_server_that_is_killed(self):
        """
        Kill -9 of the parent ends the child too, even one that stands still.
        """
        with subprocess.Popen(
            [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            child.suspend()
            parent.send_signal(signal.SIGKILL)

            assert [] == psutil.wait_procs([child], timeout=60)[1]
