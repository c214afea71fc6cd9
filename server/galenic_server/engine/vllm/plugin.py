"""
What vLLM loads in each of its processes, by the entry point ``vllm.general_plugins``.

Architectures are registered by name, so nothing is imported until a backbone asks for it; an
engine that brings no layout of scales gets vLLM's own model unchanged.
"""

ARCHITECTURES = (
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
PLUGIN = "galenic"
SCALES_KEY = "galenic_scales"
"""In vLLM's additional_config, which reaches every worker and names its compile cache."""


def register() -> None:
    from vllm import ModelRegistry

    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"galenic_server.engine.vllm.models:{name}")
    _keep_compiled_graphs()


def _keep_compiled_graphs() -> None:
    """
    Let vLLM use a graph that it compiled and saved at an earlier start.

    It asks what it has loaded to `finalize_loading`, which its own backend knows. On CPUs it
    compiles by inductor's, whose loaded graph is ready as it is and has no such method; vLLM then
    throws it away and compiles anew, at every start.
    """
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as Loaded

    if not hasattr(Loaded, "finalize_loading"):
        Loaded.finalize_loading = lambda self, vllm_config: None  # type: ignore[attr-defined]  # that is why
