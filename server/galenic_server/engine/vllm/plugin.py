"""
What vLLM loads in each of its processes, by the entry point ``vllm.general_plugins``.

Architectures are registered by name, so nothing is imported until a backbone asks for it; an
engine that brings no Galenic layout gets vLLM's own model unchanged. Ids past the vocabulary are
accepted only under the tokenizer mode ``galenic``, which `VllmEngine` alone asks for.
"""

ARCHITECTURES = (
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
TOKENIZER_MODE = "galenic"
LAYOUT_KEY = "galenic"
SCALES_KEY = "galenic_scales"
"""In vLLM's additional_config, which reaches every worker and names its compile cache."""


def register() -> None:
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"galenic_server.engine.vllm.models:{name}")
    if TOKENIZER_MODE not in TokenizerRegistry.tokenizers:  # vLLM may call this more than once
        TokenizerRegistry.register(
            TOKENIZER_MODE, "galenic_server.engine.vllm.tokenizer", "PromptedTokenizer"
        )
        RENDERER_REGISTRY.register(
            TOKENIZER_MODE, "galenic_server.engine.vllm.openai_renderer", "PromptedRenderer"
        )
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
