"""
The server's messages to vLLM's workers: adapters for slots, and their prompts.

Tensors are sent as safetensors bytes. A message has at most some megabytes and takes at most some
hundred milliseconds, since the engine answers nobody while it reads one.

Dimension key:  L layers   N prompts side by side   P prompt positions   D model width
                W width of keys, or of a place   K adapters loaded at once
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from vllm.distributed.kv_transfer import get_kv_transfer_group

from galenic_adapters.backbone.scaling import to_offset
from galenic_adapters.factor import Composed
from galenic_server.engine.slots import Seated
from galenic_server.engine.vllm.connector import PromptConnector
from galenic_server.engine.vllm.guards import guard
from galenic_server.engine.vllm.layers import keys_and_values
from galenic_server.engine.vllm.steps import follow, version_of

T = TypeVar("T")

MESSAGE_BYTES = 8 << 20
MESSAGE_ROWS = 256
"""The most rows of input prompts in a message; running them takes as long as one step on a CPU."""


class AdapterWorker:
    """Extends vLLM's worker class (``worker_extension_cls``); called by ``collective_rpc``."""

    model_runner: Any
    vllm_config: Any

    def prepare(self) -> bool:
        """Guard the runner; returns whether scales will know each token's slot."""
        if not isinstance(get_kv_transfer_group(), PromptConnector):
            raise RuntimeError("prompts need vLLM's KV connector for themselves")
        guard(self.model_runner)
        return self._model.scales is None or follow(self.model_runner)

    def beat(self) -> None:
        """Answer: this worker does not hang."""

    def load_scales(self, packed: bytes) -> None:
        self._model.scales.load(safetensors.torch.load(packed))

    def load_prompts(self, packed: Mapping[str, bytes], forgotten: Sequence[str]) -> None:
        """
        Forget some prompts, and store the packed ones by digest.

        They are stored as keys and values of this worker's layers and heads.
        """
        for digest in forgotten:
            get_kv_transfer_group().prompts.pop(digest, None)
        prompts = {digest: safetensors.torch.load(data) for digest, data in packed.items()}
        rows = {digest: prompt["rows"] for digest, prompt in prompts.items() if "rows" in prompt}
        for digest in prompts.keys() - rows.keys():
            self._keep(digest, self._sharded(**prompts[digest]))
        if rows:
            kv_NL2PW = self._computed(list(rows.values()))
            for (digest, rows_PD), kv_L2PW in zip(rows.items(), kv_NL2PW, strict=True):
                self._keep(digest, kv_L2PW[:, :, : len(rows_PD)])

    @property
    def _model(self) -> Any:
        return self.model_runner.get_model()

    def _keep(self, digest: str, kv_L2PW: Tensor) -> None:
        get_kv_transfer_group().keep(digest, kv_L2PW.to(self.vllm_config.model_config.dtype))

    def _sharded(self, keys: Tensor, values: Tensor) -> Tensor:
        layers = get_kv_transfer_group().layers
        return torch.stack(
            [torch.stack([layer.shard(keys), layer.shard(values)]) for layer in layers]
        )

    def _computed(self, rows: Sequence[Tensor]) -> Tensor:
        """Compute keys and values of prompts, padded to the longest; padding holds junk."""
        layers = get_kv_transfer_group().layers
        rows_NPD = pad_sequence(list(rows), batch_first=True).to(
            layers[0].attention.kv_cache.device, self.vllm_config.model_config.dtype
        )
        return keys_and_values(rows_NPD, self._model, layers, self.vllm_config)


def pack_scales(
    seated: Sequence[Seated], shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype
) -> bytes:
    """
    Make the message for `AdapterWorker.load_scales`: offsets at every place of *shapes*.

    They are zero where an adapter does not scale, which overwrites the slot's previous adapter.
    """
    tensors = {
        "slots": torch.tensor([resident.place.slot for resident in seated]),
        "versions": torch.tensor([version_of(resident.digest) for resident in seated]),
    }
    for place, shape in shapes.items():
        ones = torch.ones(shape)
        offsets = [
            to_offset(resident.adapter.scales.get(place, ones), dtype) for resident in seated
        ]
        tensors[place] = torch.stack(offsets)
    return safetensors.torch.save(tensors)


def pack_prompts(adapters: Mapping[str, Composed], dtype: torch.dtype) -> dict[str, bytes]:
    """Make the message for `AdapterWorker.load_prompts`: prompts by their digests."""
    return {
        digest: safetensors.torch.save(
            {name: tensor.to(dtype).contiguous() for name, tensor in adapter.prompt.items()}
        )
        for digest, adapter in adapters.items()
    }


def prompt_size(adapter: Composed, dtype: torch.dtype) -> int:
    """Return the share of `MESSAGE_BYTES` that a prompt takes."""
    if adapter.rows_PD is not None:
        return adapter.num_positions * MESSAGE_BYTES // MESSAGE_ROWS
    return sum(tensor.numel() for tensor in adapter.prompt.values()) * dtype.itemsize


def messages(parts: Sequence[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Group *parts* into messages of at most `MESSAGE_BYTES`, or of one part."""
    message: list[T] = []
    num_bytes = 0
    for part in parts:
        size = size_of(part)
        if message and num_bytes + size > MESSAGE_BYTES:
            yield message
            message, num_bytes = [], 0
        message.append(part)
        num_bytes += size
    if message:
        yield message
