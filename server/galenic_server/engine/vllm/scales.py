"""
Scales activations inside vLLM's layers: each token's by its own adapter's vectors.

    x[t] -> x[t] * (1 + offset[slot[t]])        slot 0 is the bare backbone: its offsets are zero

Tables are static and written in place, and no branch depends on data, so compiled and captured
graphs read their current content. Offsets are scales minus 1; see `backbone.scaling`, which scales
a transformers model at the same places.

Scales are applied by hooks: modules keep their names and weights, so checkpoints, quantization and
the binding of KV caches are untouched.

Dimension key:  T tokens   S slots   L layers   W width of a place   K adapters loaded at once
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.utils.torch_utils import async_tensor_h2d

from galenic_server.engine.vllm.steps import BARE, StepSlots


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """
    Lists the places that have tables of *num_slots* slots, for the server and every worker.

    A place without a table costs nothing.
    """

    places: tuple[str, ...]
    num_slots: int

    def num_bytes(self, shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> int:
        """Return the size of all tables, on all tensor-parallel ranks together."""
        numbers = sum(num_layers * width for num_layers, width in shapes.values())
        return self.num_slots * numbers * dtype.itemsize


class Scale(nn.Module):
    """Scales the activations at one place of one layer; *offset_SW* is its part of the table."""

    offset_SW: Tensor
    slot_T: Tensor
    is_on = True  # as compiled graphs have it

    def __init__(self, offset_SW: Tensor, slot_T: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset_SW", offset_SW, persistent=False)
        self.register_buffer("slot_T", slot_T, persistent=False)

    def forward(self, x_TW: Tensor) -> Tensor:
        if not self.is_on:
            return x_TW
        offset_TW = self.offset_SW[self.slot_T[: x_TW.shape[0]]]
        return torch.addcmul(x_TW, x_TW, offset_TW)


@contextmanager
def unscaled(model: nn.Module) -> Iterator[None]:
    """Turn off the scales of *model*'s layers, as far as they run uncompiled, for the block."""
    scales = [module for module in model.modules() if isinstance(module, Scale)]
    for scale in scales:
        scale.is_on = False
    try:
        yield
    finally:
        for scale in scales:
            scale.is_on = True


class ScaleQKV(nn.Module):
    """Scales the parts of a fused QKV projection's output."""

    def __init__(self, qkv: Any, scales: Mapping[str, Scale]) -> None:
        super().__init__()
        keys = qkv.num_kv_heads * qkv.head_size
        self.widths = [qkv.num_heads * qkv.head_size, keys, keys]
        self.parts = nn.ModuleList(scales.get(place, nn.Identity()) for place in "qkv")

    def forward(self, qkv_TW: Tensor) -> Tensor:
        parts = zip(self.parts, torch.split(qkv_TW, self.widths, dim=-1), strict=True)
        return torch.cat([scale(part_TW) for scale, part_TW in parts], dim=-1)


class Scales(nn.Module):
    """Holds the tables of one worker, for its layers and its shard of each place's width."""

    slot_T: Tensor

    def __init__(
        self, model: Any, layout: ScaleLayout, vllm_config: VllmConfig, *, attention_name: str
    ) -> None:
        """Attach scales to *model*'s ``layers`` of this pipeline stage."""
        super().__init__()
        _check_order_of_tokens(vllm_config)
        num_tokens = vllm_config.scheduler_config.max_num_batched_tokens
        # Longer than any step, so that its length is never taken for a graph's number of tokens.
        slot_T = torch.full((num_tokens + 1,), BARE, dtype=torch.int32)
        self.register_buffer("slot_T", slot_T, persistent=False)
        self.slots = StepSlots(slot_T, layout.num_slots)
        self._mine = slice(model.start_layer, model.end_layer)
        layers = [model.layers[i] for i in range(model.start_layer, model.end_layer)]
        rank = get_tensor_model_parallel_rank()
        self._shards = {
            place: shard_of(place, layers[0].mlp, getattr(layers[0], attention_name), rank)
            for place in layout.places
        }
        for place, shard in self._shards.items():
            # Memory that no adapter has been written to is not used on CPUs.
            shape = layout.num_slots, len(layers), shard.stop - shard.start
            table_SLW = torch.empty(shape, dtype=vllm_config.model_config.dtype)
            table_SLW[BARE] = 0
            self.register_buffer(_table(place), table_SLW, persistent=False)
        for i, layer in enumerate(layers):
            scales = {place: Scale(self.table(place)[:, i], slot_T) for place in layout.places}
            _attach(layer, getattr(layer, attention_name), scales)

    def table(self, place: str) -> Tensor:
        """Return the offsets of all slots (S, L, W) at *place*."""
        return self.get_buffer(_table(place))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """
        Write adapters into the tables.

        tensors: ``slots`` (K,), ``versions`` (K,) and, by place, offsets (K, L, W) of all layers
        and the whole width.
        """
        device, slots_K = self.slot_T.device, tensors["slots"]
        at_K = async_tensor_h2d(slots_K, device)
        for place, shard in self._shards.items():
            mine_KLW = tensors[place][:, self._mine, shard].contiguous()
            self.table(place)[at_K] = async_tensor_h2d(mine_KLW, device)
        self.slots.version_S[slots_K.numpy()] = tensors["versions"].numpy()


def _table(place: str) -> str:
    return f"table_{place}"


def _check_order_of_tokens(vllm_config: VllmConfig) -> None:
    """Raise `ValueError` for modes in which layers see tokens in another order than `StepSlots`."""
    parallel = vllm_config.parallel_config
    for name, is_on in (
        ("microbatches", parallel.use_ubatching),
        ("prefill context parallelism", parallel.prefill_context_parallel_size > 1),
        ("speculative decoding", vllm_config.speculative_config is not None),
    ):
        if is_on:
            raise ValueError(f"adapters that scale activations do not go with {name}")


def shard_of(place: str, mlp: Any, attention: Any, rank: int) -> slice:
    """Return the part of a place's width that this tensor-parallel *rank* computes."""
    qkv = attention.qkv_proj
    if place == "q":
        width = qkv.num_heads * qkv.head_size
    elif place in ("k", "v"):
        width, rank = qkv.num_kv_heads * qkv.head_size, rank // qkv.num_kv_head_replicas
    elif place == "o":
        width = attention.o_proj.input_size_per_partition
    elif hasattr(mlp, "down_proj"):
        width = mlp.down_proj.input_size_per_partition
    else:  # what the experts of all ranks give together
        width, rank = mlp.hidden_size, 0
    return slice(rank * width, (rank + 1) * width)


def _attach(layer: Any, attention: Any, scales: Mapping[str, Scale]) -> None:
    if "o" in scales:
        attention.o_proj.scale = scales["o"]
        attention.o_proj.register_forward_pre_hook(_scale_first)
    if scales.keys() & set("qkv"):
        attention.qkv_proj.scale = ScaleQKV(attention.qkv_proj, scales)
        attention.qkv_proj.register_forward_hook(_scale_first_output)
    if "f" not in scales:
        return
    if hasattr(layer.mlp, "act_fn"):
        # No hook: under fp8 vLLM fuses what it knows as an activation with what follows it.
        layer.mlp.act_fn = nn.Sequential(layer.mlp.act_fn, scales["f"])
    else:
        layer.mlp.scale = scales["f"]
        layer.mlp.register_forward_hook(_scale_output)


def _scale_first(module: Any, args: Sequence[Any]) -> tuple[Any, ...]:
    return module.scale(args[0]), *args[1:]


def _scale_first_output(module: Any, args: Any, output: Sequence[Any]) -> tuple[Any, ...]:
    return module.scale(output[0]), *output[1:]


def _scale_output(module: Any, args: Any, output: Tensor) -> Tensor:
    scaled_TW: Tensor = module.scale(output)
    return scaled_TW
