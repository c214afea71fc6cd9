"""
What the server tells vLLM's workers: the metaprompt, and which factors sit where.

Tensors travel as safetensors bytes, in one message however many adapters there are.
"""

from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from galenic_adapters.factor import Factor, Metaprompt
from galenic_server.engine.embedding import Layout, PromptedEmbedding
from galenic_server.engine.guards import guard
from galenic_server.engine.guards_v2 import guard_v2
from galenic_server.engine.plugin import LAYOUT_KEY
from galenic_server.engine.slots import Place


class PromptWorker:
    """Joined to vLLM's worker class (``worker_extension_cls``); called by ``collective_rpc``."""

    model_runner: Any
    vllm_config: Any

    def load_prompts(self, packed: bytes) -> None:
        tensors = safetensors.torch.load(packed)
        model: nn.Module = self.model_runner.get_model()
        for module in model.modules():
            if isinstance(module, PromptedEmbedding):
                module.load(tensors)

    def guard_vocabulary(self) -> bool:
        """Whether requests may ask for what indexes the vocabulary by prompt ids."""
        layout = Layout(**self.vllm_config.additional_config[LAYOUT_KEY])
        return guard(self.model_runner) or guard_v2(self.model_runner, layout.num_virtual)


def pack(
    seated: Sequence[tuple[Place, Factor]], *, max_rank: int, metaprompt: Metaprompt | None = None
) -> bytes:
    """The message for `PromptWorker.load_prompts`; float32, so that workers round once."""
    tensors: dict[str, Tensor] = {}
    if metaprompt is not None:
        tensors["metaprompt"] = metaprompt.rows_PD.float().contiguous()
    if seated:
        places, factors = zip(*seated, strict=True)
        padding = (0,) * max_rank
        tensors |= {
            "slots": torch.tensor([place.slot for place in places]),
            "index": torch.tensor([(*place.components, *padding)[:max_rank] for place in places]),
            "components": torch.tensor([c for place in places for c in place.components]),
            "u": torch.cat([factor.u_PR.float().T for factor in factors]).contiguous(),
            "v": torch.cat([factor.v_RD.float() for factor in factors]).contiguous(),
        }
    return safetensors.torch.save(tensors)
