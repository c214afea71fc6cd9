"""
The architectures that vLLM serves, each with virtual prompts in its input embedding and scales in
its layers.

The classes keep vLLM's names, because vLLM looks settings up by the name of the architecture.
"""

from typing import Any

from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.models import gpt_oss, llama, mistral, qwen2, qwen3

from galenic_server.engine.vllm.embedding import Layout, PromptedEmbedding
from galenic_server.engine.vllm.plugin import LAYOUT_KEY, SCALES_KEY
from galenic_server.engine.vllm.scales import ScaleLayout, Scales


class Prompted:
    """Wraps the input embedding of the model beside it, once built; no layout, no effect."""

    embedding_name = "embed_tokens"
    model: nn.Module

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]  # object is not next in line
        sizes = (vllm_config.additional_config or {}).get(LAYOUT_KEY)
        base = getattr(self.model, self.embedding_name)
        if sizes is None or not isinstance(base, VocabParallelEmbedding):
            return  # plain vLLM, or a pipeline stage that embeds nothing
        backbone = vllm_config.model_config
        wrapped = PromptedEmbedding(
            base,
            Layout(**sizes),
            vocab_size=backbone.get_vocab_size(),
            width=backbone.get_hidden_size(),
            dtype=backbone.dtype,
        )
        setattr(self.model, self.embedding_name, wrapped)


class Scaled:
    """Scales the layers of the model beside it, once built; no places, no effect."""

    attention_name = "self_attn"
    model: nn.Module

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]  # object is not next in line
        sizes = (vllm_config.additional_config or {}).get(SCALES_KEY)
        self.scales = None
        if sizes is not None:
            self.scales = Scales(
                self.model,
                ScaleLayout(**sizes),
                vllm_config,
                attention_name=self.attention_name,
            )

    def get_model_state_cls(self) -> type:
        """What vLLM's V2 runner asks a model for."""
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        if self.scales is None:
            return DefaultModelState
        from galenic_server.engine.vllm.state_v2 import ScaledModelState

        return ScaledModelState


class GptOssForCausalLM(Prompted, Scaled, gpt_oss.GptOssForCausalLM):
    embedding_name = "embedding"
    attention_name = "attn"


class LlamaForCausalLM(Prompted, Scaled, llama.LlamaForCausalLM):
    pass


class MistralForCausalLM(Prompted, Scaled, mistral.MistralForCausalLM):
    pass


class Qwen2ForCausalLM(Prompted, Scaled, qwen2.Qwen2ForCausalLM):
    pass


class Qwen3ForCausalLM(Prompted, Scaled, qwen3.Qwen3ForCausalLM):
    pass
