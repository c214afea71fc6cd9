"""
Makes vLLM with arguments for this machine, and sets what it reads from the environment.
"""

import os
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

# Read by vLLM when it is imported, so set before.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")
# Not the user's to set: no log line of vLLM's processes may quote a request.
os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(Path(__file__).parent / "vllm_logging.json")

import torch
from transformers import AutoConfig
from vllm import AsyncEngineArgs
from vllm.config import KVTransferConfig
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_adapters.errors import BadInput
from galenic_server.engine.capacity import memory_bytes
from galenic_server.engine.contract import EngineConfig
from galenic_server.engine.vllm.plugin import PLUGIN, SCALES_KEY
from galenic_server.engine.vllm.scales import ScaleLayout

CPU_ARGUMENTS: dict[str, Any] = {
    "kv_cache_memory_bytes": 1 << 30,  # 46,000 tokens of SmolLM2; vLLM's own is nearly all memory
    "block_size": 32,  # of vLLM's default of 128, the cache would keep no short text
    "max_num_batched_tokens": 256,  # of 4,096, each token would wait a second for prompts read
}


def check_memory(config: EngineConfig, table_bytes: int) -> None:
    """Raise `BadInput` if tables of scales, or prompts, need more than half of the memory."""
    memory = memory_bytes()
    device = memory if current_platform.is_cpu() else current_platform.get_device_total_memory()
    for name, needed, available in (
        ("num_slots", table_bytes, device),
        ("prompt_bytes", config.prompt_bytes or 0, memory),
    ):
        if needed > available / 2:
            sizes = f"{needed / 2**30:.1f} GiB, and may take half of {available / 2**30:.1f} GiB"
            raise BadInput(name, f"{getattr(config, name):,} needs {sizes}")


def make_prompted(config: EngineConfig, layout: ScaleLayout) -> AsyncLLM:
    """Make vLLM with prompts before texts and, for the places of *layout*, scales."""
    if PLUGIN not in entry_points(group="vllm.general_plugins").names:
        raise RuntimeError("vLLM does not find Galenic's plugin: install the package `galenic`")
    llm = make_vllm(
        config,
        scheduling_policy="priority",
        tokenizer_mode="hf",
        worker_extension_cls="galenic_server.engine.vllm.worker.AdapterWorker",
        kv_transfer_config=_connector(),
        additional_config={SCALES_KEY: asdict(layout)} if layout.places else {},
        # Free to put space between tokens, a small model does so to the end.
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True}
        | _reasoning_of(config.backbone),
    )
    # Here tensors are an upload's, and small; the workers have been given threads of their own.
    torch.set_num_threads(1)
    return llm


def make_vllm(config: EngineConfig, **more: Any) -> AsyncLLM:
    """Make vLLM over *config*'s backbone with arguments for this machine, then those of *more*."""
    arguments: dict[str, Any] = {
        "model": config.backbone,
        "dtype": config.dtype,
        "max_model_len": config.context_tokens,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if current_platform.is_cpu():
        _share_the_cpu(config.tensor_parallel_size)
        arguments |= CPU_ARGUMENTS
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | more | config.options))


def _connector() -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="PromptConnector",
        kv_connector_module_path="galenic_server.engine.vllm.connector",
        kv_role="kv_producer",  # a consumer's blocks vLLM would be slow to free
        kv_load_failure_policy="fail",  # else placeholders were read as text
    )


def _reasoning_of(backbone: str) -> dict[str, str]:
    """Name vLLM's parser of the backbone's reasoning; constraints apply after its end."""
    is_harmony = AutoConfig.from_pretrained(backbone).model_type == "gpt_oss"
    return {"reasoning_parser": "openai_gptoss"} if is_harmony else {}


def _share_the_cpu(num_workers: int) -> None:
    """
    Leave a core to the server and bind no threads, on a single NUMA node; set variables are kept.

    vLLM would bind its threads to cores, and one busy core would delay all of them.
    """
    if Path("/sys/devices/system/node/node1").exists():
        return
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (torch.get_num_threads() - 1) // num_workers))
    )
