"""
A worker's attention layers: what their keys and values for a prompt are, and writing them.

A deep prompt brings keys and values itself. Those of an input prompt are what the backbone computes
of its rows, in one pass that neither reads nor fills vLLM's cache: vLLM skips attention where it is
given no metadata, as when it profiles, and a hook on each layer attends instead.

Dimension key:  L layers of this worker   N prompts side by side   P prompt positions
                T tokens, N P or of several requests   D model width   H heads   C size of a head
                W heads of this worker's keys times their size
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.utils import extract_layer_index


@dataclass(frozen=True, slots=True)
class Layer:
    """An attention layer, its place among the backbone's, and the KV cache group it is of."""

    attention: Any
    index: int
    group: int

    def write(self, keys_TW: Tensor, values_TW: Tensor, slots_T: Tensor) -> None:
        """Write into this layer's cache, as its backend lays it out and in the cache's dtype."""
        at = self.attention
        keys, values = (kv.view(-1, at.num_kv_heads, at.head_size) for kv in (keys_TW, values_TW))
        at.impl.do_kv_cache_update(at, keys, values, at.kv_cache, slots_T)

    def share(self, kv_2PW: Tensor) -> Tensor:
        """This worker's heads of those of all tensor-parallel workers."""
        head_size, num_heads = self.attention.head_size, self.attention.num_kv_heads
        total = kv_2PW.shape[-1] // head_size
        rank, workers = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        first = rank * total // workers
        return kv_2PW[..., first * head_size : (first + num_heads) * head_size]


def layers_of(vllm_config: VllmConfig, kv_cache_config: Any) -> list[Layer]:
    """The backbone's layers that have keys and values of their own, in order."""
    known = vllm_config.compilation_config.static_forward_context
    layers = [
        Layer(known[name], extract_layer_index(name), group)
        for group, of_group in enumerate(kv_cache_config.kv_cache_groups)
        for name in of_group.layer_names
    ]
    return sorted(layers, key=lambda layer: layer.index)


@torch.inference_mode()
def keys_and_values(
    model: nn.Module, layers: Sequence[Layer], rows_NPD: Tensor, vllm_config: VllmConfig
) -> Tensor:
    """What the backbone makes of N prompts' rows at its input, (N, L, 2, P, W)."""
    num_prompts, num_positions, width = rows_NPD.shape
    positions_T = torch.arange(num_positions, device=rows_NPD.device).repeat(num_prompts)
    rows_TD = rows_NPD.reshape(-1, width)
    with (
        _attending(layers, num_prompts) as seen,
        set_forward_context(None, vllm_config, num_tokens=len(rows_TD), skip_compiled=True),
    ):
        model(
            input_ids=None, positions=positions_T, intermediate_tensors=None, inputs_embeds=rows_TD
        )
    seen_LN2PW = torch.stack([kv.unflatten(1, (num_prompts, -1)).transpose(0, 1) for kv in seen])
    return seen_LN2PW.transpose(0, 1).contiguous()


@contextmanager
def _attending(layers: Sequence[Layer], num_prompts: int) -> Iterator[list[Tensor]]:
    """Attend in place of vLLM; the keys and values (2, T, W) of each layer are in the list."""
    seen: list[Tensor] = []

    def attend(attention: Any, args: tuple[Tensor, ...], output_TW: Tensor) -> Tensor:
        seen.append(torch.stack(args[1:3]))
        return causal(attention, *args[:3], num_prompts=num_prompts).reshape(output_TW.shape)

    handles = [layer.attention.register_forward_hook(attend) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def causal(
    attention: Any, query_TW: Tensor, key_TW: Tensor, value_TW: Tensor, *, num_prompts: int
) -> Tensor:
    """Each position attends to those up to it, as *attention* does, within its window."""
    query, key, value = (
        x.view(num_prompts, -1, heads, attention.head_size).transpose(1, 2).float()
        for x, heads in (
            (query_TW, attention.num_heads),
            (key_TW, attention.num_kv_heads),
            (value_TW, attention.num_kv_heads),
        )
    )  # N H P C
    groups = attention.num_heads // attention.num_kv_heads
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * attention.impl.scale
    num_positions = scores.shape[-1]
    seen = scores.new_ones(num_positions, num_positions, dtype=torch.bool).tril()
    if attention.sliding_window is not None:
        seen = seen.triu(1 - attention.sliding_window)
    scores = scores.masked_fill(~seen, -torch.inf)
    sinks = getattr(attention.impl, "sinks", None)
    if sinks is not None:
        sink = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).to(query_TW.dtype)
