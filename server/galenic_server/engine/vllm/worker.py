"""
What the server tells vLLM's workers: the metaprompt, and which adapters sit where.

Tensors travel as safetensors bytes, many adapters in a message and no message of more than some
megabytes: the engine answers nobody while it reads one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from galenic_adapters.backbone.scaling import to_offset
from galenic_adapters.factor import Composed, Factor, Metaprompt
from galenic_server.engine.slots import Seated
from galenic_server.engine.vllm.embedding import Layout, PromptedEmbedding
from galenic_server.engine.vllm.guards_v1 import guard
from galenic_server.engine.vllm.guards_v2 import guard_v2
from galenic_server.engine.vllm.plugin import LAYOUT_KEY
from galenic_server.engine.vllm.steps import follow, version_of

MESSAGE_BYTES = 8 << 20


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

    def load_scales(self, packed: bytes) -> None:
        self.model_runner.get_model().scales.load(safetensors.torch.load(packed))

    def follow_steps(self) -> bool:
        """Whether each token's slot is known in every step from now on."""
        return follow(self.model_runner)

    def guard_vocabulary(self) -> bool:
        """Whether requests may ask for what indexes the vocabulary by prompt ids."""
        layout = Layout(**self.vllm_config.additional_config[LAYOUT_KEY])
        return guard(self.model_runner) or guard_v2(self.model_runner, layout.num_virtual)


def pack_factors(seated: Sequence[Seated], dtype: torch.dtype) -> bytes:
    """
    The message for `PromptWorker.load_prompts` that brings factors.

    In *dtype*, the engine's own: rounded here or there, the tables hold the same bits.
    """
    places = [one.place for one in seated]
    factors = [one.adapter for one in seated if isinstance(one.adapter, Factor)]
    tensors = {
        "slots": torch.tensor([place.slot for place in places], dtype=torch.int32),
        "first": torch.tensor([place.components[0] for place in places], dtype=torch.int32),
        "components": _flat(place.components for place in places),
        "next": _flat((*place.components[1:], 0) for place in places),
        "u": torch.cat([factor.u_PR.T.to(dtype) for factor in factors]).contiguous(),
        "v": torch.cat([factor.v_RD.to(dtype) for factor in factors]).contiguous(),
    }
    return safetensors.torch.save(tensors)


def pack_scales(
    seated: Sequence[Seated], shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype
) -> bytes:
    """
    The message for `PromptWorker.load_scales`: offsets at every place of *shapes*, zero where an
    adapter scales nothing, so that nothing is left of who sat there before.
    """
    scales = [one.adapter.scales for one in seated if isinstance(one.adapter, Composed)]
    tensors = {
        "slots": torch.tensor([one.place.slot for one in seated]),
        "versions": torch.tensor([version_of(one.digest) for one in seated]),
    }
    for place, shape in shapes.items():
        ones = torch.ones(shape)
        tensors[place] = torch.stack([to_offset(its.get(place, ones), dtype) for its in scales])
    return safetensors.torch.save(tensors)


def pack_metaprompt(metaprompt: Metaprompt) -> bytes:
    """The message that brings the metaprompt, in float32."""
    return safetensors.torch.save({"metaprompt": metaprompt.rows_PD.float().contiguous()})


def messages(seated: Sequence[Seated], dtype: torch.dtype) -> Iterator[list[Seated]]:
    """*seated* in parts that each make a message of `MESSAGE_BYTES`, or of one adapter."""
    part: list[Seated] = []
    num_bytes = 0
    for one in seated:
        size = one.adapter.num_parameters * dtype.itemsize
        if part and num_bytes + size > MESSAGE_BYTES:
            yield part
            part, num_bytes = [], 0
        part.append(one)
        num_bytes += size
    if part:
        yield part


def _flat(numbers: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor(list(chain.from_iterable(numbers)), dtype=torch.int32)
