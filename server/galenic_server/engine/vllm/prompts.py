"""
How prompts come to vLLM's workers, and there to their keys and values.

Dimension key:  L layers of the backbone   N prompts side by side   P prompt positions
                D model width   W heads of keys times their size
"""

from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from vllm.distributed.kv_transfer import get_kv_transfer_group

from galenic_adapters.factor import Composed
from galenic_server.engine.vllm.layers import keys_and_values

PROMPTS_AT_ONCE = 4  # in one pass; of 64 rows, what vLLM reads in a step on a CPU


def pack(composed: Composed) -> bytes:
    """The prompt of an adapter that has one, for `PromptWorker.keep_prompts`."""
    if composed.prefix is None:
        named = {"rows": composed.rows_PD}
    else:
        named = dict(zip(("keys", "values"), composed.prefix, strict=True))
    return safetensors.torch.save({name: one.contiguous() for name, one in named.items()})


class PromptWorker:
    """Joined to vLLM's worker class (``worker_extension_cls``); called by ``collective_rpc``."""

    model_runner: Any
    vllm_config: Any

    def keep_prompts(self, packed: Mapping[str, bytes]) -> None:
        """Keep prompts, packed by digest, as keys and values of this worker's layers and heads."""
        rows: dict[str, Tensor] = {}
        for digest, one in packed.items():
            prompt = safetensors.torch.load(one)
            if "rows" in prompt:
                rows[digest] = prompt["rows"]
            else:
                self._keep(digest, self._sharded(prompt["keys"], prompt["values"]))
        for first in range(0, len(rows), PROMPTS_AT_ONCE):
            some = list(rows)[first : first + PROMPTS_AT_ONCE]
            kv_NL2PW = self._computed([rows[digest] for digest in some])
            for digest, kv_L2PW in zip(some, kv_NL2PW, strict=True):
                self._keep(digest, kv_L2PW[:, :, : len(rows[digest])])

    def forget_prompts(self, digests: Sequence[str]) -> None:
        for digest in digests:
            del get_kv_transfer_group().prompts[digest]

    def _keep(self, digest: str, kv_L2PW: Tensor) -> None:
        get_kv_transfer_group().keep(digest, kv_L2PW.to(self.vllm_config.model_config.dtype))

    def _sharded(self, keys_LPW: Tensor, values_LPW: Tensor) -> Tensor:
        layers = get_kv_transfer_group().layers
        return torch.stack(
            [torch.stack([layer.shard(keys_LPW), layer.shard(values_LPW)]) for layer in layers]
        )

    def _computed(self, rows: Sequence[Tensor]) -> Tensor:
        """The longest one's positions for each: what stands over sees, and is not seen."""
        layers = get_kv_transfer_group().layers
        rows_NPD = pad_sequence(rows, batch_first=True).to(
            layers[0].attention.kv_cache.device, self.vllm_config.model_config.dtype
        )
        return keys_and_values(rows_NPD, self.model_runner.get_model(), layers, self.vllm_config)
