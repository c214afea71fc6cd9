"""
The architectures that vLLM serves, with scales in their layers.

The classes keep vLLM's names, because vLLM looks settings up by the name of the architecture.
"""

from typing import Any

from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models import gpt_oss, llama, mistral, qwen2, qwen3

from galenic_server.engine.vllm.plugin import SCALES_KEY
from galenic_server.engine.vllm.scales import ScaleLayout, Scales


class Scaled:
    """Mixin that adds scales to a model's layers once they are built, if there are places."""

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
        """Return the class of the model's state, for vLLM's V2 runner."""
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        if self.scales is None:
            return DefaultModelState
        from galenic_server.engine.vllm.state_v2 import ScaledModelState

        return ScaledModelState


class GptOssForCausalLM(Scaled, gpt_oss.GptOssForCausalLM):
    attention_name = "attn"


class LlamaForCausalLM(Scaled, llama.LlamaForCausalLM):
    pass


class MistralForCausalLM(Scaled, mistral.MistralForCausalLM):
    pass


class Qwen2ForCausalLM(Scaled, qwen2.Qwen2ForCausalLM):
    pass


class Qwen3ForCausalLM(Scaled, qwen3.Qwen3ForCausalLM):
    pass
