"""
The plugin that vLLM loads in each of its processes, by the entry point ``vllm.general_plugins``.

Architectures are registered by name, so nothing is imported until a backbone needs it. Without a
layout of scales, vLLM's own model is unchanged.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

ARCHITECTURES = (
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
PLUGIN = "galenic"
SCALES_KEY = "galenic_scales"
"""Our key in vLLM's additional_config, which reaches every worker and its compile cache's name."""


def register() -> None:
    from vllm import ModelRegistry

    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"galenic_server.engine.vllm.models:{name}")
    _keep_compiled_graphs()
    end_with_parent()


def end_with_parent() -> None:
    """
    Let the kernel kill this process when its parent ends, however that ends (Linux).

    A core or worker would outlive a server that was killed, and keep the memory of a GPU. Processes
    that multiprocessing did not start are left alone.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not parent.is_alive():  # it ended before
        os._exit(1)


def _keep_compiled_graphs() -> None:
    """
    Let vLLM reuse a graph that it compiled and saved at an earlier start.

    vLLM calls `finalize_loading` on a loaded graph. On CPUs it compiles by inductor, whose loaded
    graph is ready and lacks that method, so vLLM would discard it and recompile at every start.
    """
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as Loaded

    if not hasattr(Loaded, "finalize_loading"):
        Loaded.finalize_loading = lambda self, vllm_config: None  # type: ignore[attr-defined]  # that is why
