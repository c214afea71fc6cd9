"""
Computes and writes the keys and values of prompts in a worker's attention layers.

A deep prompt has keys and values. Those of an input prompt are computed from its rows, in one pass
of the backbone without scales that does not touch vLLM's cache: without attention metadata vLLM
skips attention, as when it profiles, and a hook on each layer attends instead.

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
from torch.nn.functional import scaled_dot_product_attention
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.forward_context import set_forward_context
from vllm.model_executor.models.utils import extract_layer_index

from galenic_server.engine.vllm.scales import unscaled


@dataclass(frozen=True, slots=True)
class Layer:
    """Holds vLLM's *attention*, the index of its layer in the backbone, and its KV cache group."""

    attention: Any
    index: int
    group: int

    def write(self, keys_TW: Tensor, values_TW: Tensor, slots_T: Tensor) -> None:
        """Write into the cache in the attention backend's layout and precision."""
        at = self.attention
        keys, values = (kv.view(-1, at.num_kv_heads, at.head_size) for kv in (keys_TW, values_TW))
        at.impl.do_kv_cache_update(at, keys, values, at.kv_cache, slots_T)

    def shard(self, whole_LPW: Tensor) -> Tensor:
        """Return this layer's heads on this tensor-parallel worker (P, W), from all layers'."""
        whole_PW = whole_LPW[self.index]
        heads = whole_PW.view(len(whole_PW), -1, self.attention.head_size)
        rank, size = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        first = rank * heads.shape[1] // size  # workers may outnumber heads, and share them
        return heads[:, first : first + self.attention.num_kv_heads].flatten(1)


def layers_of(vllm_config: VllmConfig, kv_cache_config: Any) -> list[Layer]:
    """Return the backbone's layers of this worker, in order, without a draft model's."""
    attentions = vllm_config.compilation_config.static_forward_context
    layers = (
        Layer(attentions[name], extract_layer_index(name), group)
        for group, of_group in enumerate(kv_cache_config.kv_cache_groups)
        for name in of_group.layer_names
    )
    num_layers = vllm_config.model_config.get_total_num_hidden_layers()
    return sorted(
        (layer for layer in layers if layer.index < num_layers), key=lambda layer: layer.index
    )


@torch.inference_mode()
def keys_and_values(
    rows_NPD: Tensor, model: nn.Module, layers: Sequence[Layer], vllm_config: VllmConfig
) -> Tensor:
    """Compute the keys and values (N, L, 2, P, W) of N prompts from their rows; keys rotated."""
    num_prompts, num_positions, _ = rows_NPD.shape
    positions_T = torch.arange(num_positions, device=rows_NPD.device).repeat(num_prompts)
    rows_TD = rows_NPD.flatten(0, 1)
    with (
        unscaled(model),
        _attending(layers, num_prompts) as made,
        set_forward_context(None, vllm_config, num_tokens=len(rows_TD), skip_compiled=True),
    ):
        model(None, positions_T, None, inputs_embeds=rows_TD)
    kv_L2TW = torch.stack(made)
    return kv_L2TW.view(len(made), 2, num_prompts, num_positions, -1).movedim(2, 0)


@contextmanager
def _attending(layers: Sequence[Layer], num_prompts: int) -> Iterator[list[Tensor]]:
    """Attend in place of vLLM; yields a list that gets each layer's keys and values (2, T, W)."""
    made: list[Tensor] = []

    def hook(attention: Any, qkv: tuple[Tensor, ...], output: Tensor) -> Tensor:
        query_TW, key_TW, value_TW = qkv
        made.append(torch.stack([key_TW, value_TW]))
        return attend(attention, query_TW, key_TW, value_TW, num_prompts).view_as(output)

    handles = [layer.attention.register_forward_hook(hook) for layer in layers]
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


def attend(
    attention: Any, query_TW: Tensor, key_TW: Tensor, value_TW: Tensor, num_prompts: int
) -> Tensor:
    """
    Compute causal attention (T, W) of N prompts side by side.

    An attention sink is one more key without a value, with the same score for every query.
    """
    query, key, value = (
        x_TW.view(num_prompts, len(x_TW) // num_prompts, -1, attention.head_size).transpose(1, 2)
        for x_TW in (query_TW.contiguous(), key_TW.contiguous(), value_TW.contiguous())
    )
    bias_HPP = query.new_zeros(attention.num_heads, query.shape[2], query.shape[2] + 1)
    bias_HPP[:, :, :-1].masked_fill_(_unseen(attention, bias_HPP[0, :, :-1]), -torch.inf)
    sinks_H = getattr(attention.impl, "sinks", None)
    bias_HPP[:, :, -1] = -torch.inf if sinks_H is None else sinks_H.unsqueeze(-1)
    nothing = torch.zeros_like(key[:, :, :1])
    made = scaled_dot_product_attention(
        query,
        torch.cat([key, nothing], 2),
        torch.cat([value, nothing], 2),
        attn_mask=bias_HPP,
        scale=attention.impl.scale,
        enable_gqa=True,
    )
    return made.transpose(1, 2).reshape(query_TW.shape)


def _unseen(attention: Any, like_PP: Tensor) -> Tensor:
    """Return the mask (query, key) of keys that come later, or are outside the window."""
    everything_PP = torch.ones_like(like_PP, dtype=torch.bool)
    later_PP = everything_PP.triu(1)
    window = attention.sliding_window
    return later_PP if window is None else later_PP | everything_PP.tril(-window)
