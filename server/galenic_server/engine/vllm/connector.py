"""
Gives vLLM the keys and values of a request's prompt, so that no prompt is ever prefilled.

A request's token ids begin with a placeholder for each position of its prompt. To vLLM this is a
KV connector, which holds those tokens computed: the scheduler counts them so, and before the step
that reads them the worker writes their keys and values into the request's blocks.

Dimension key:  L layers of this worker   P prompt positions   T positions written in one step
                W heads of this worker times their size
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.utils.platform_utils import is_pin_memory_available

from galenic_server.engine.slots import Prompt
from galenic_server.engine.vllm.layers import layers_of

PROMPT = "prompt"
NOWHERE = -1  # a slot that vLLM's kernels skip


def put_before(text_ids: Sequence[int], prompt: Prompt, params: SamplingParams) -> list[int]:
    """
    Return placeholder ids for *prompt* followed by the text's ids, and name it in *params*.

    The placeholder is one of the text's own ids, so that penalties and the like, which count the
    ids of a request, count only ids of the text.
    """
    named = {"kv_transfer_params": {PROMPT: (prompt.digest, prompt.num_positions)}}
    params.extra_args = (params.extra_args or {}) | named
    return [text_ids[0]] * prompt.num_positions + list(text_ids)


@dataclass(frozen=True, slots=True)
class Load:
    """
    Describes positions of a prompt to write into a request's blocks.

    block_ids: for each KV cache group, the blocks that hold the prompt; None for a block outside
    the group's window, which no layer reads any more.
    """

    digest: str
    positions: range
    block_ids: tuple[list[int | None], ...]

    def slots(self, group: int, block_size: int) -> Iterator[int]:
        """Yield the slot of each position in the cache of *group*."""
        block_ids = self.block_ids[group]
        for position in self.positions:
            block = block_ids[position // block_size]
            yield NOWHERE if block is None else block * block_size + position % block_size


@dataclass(frozen=True, slots=True)
class Loads(KVConnectorMetadata):
    """Carries the loads of one step from the scheduler to the workers."""

    loads: list[Load]


class PromptConnector(KVConnectorBase_V1, SupportsHMA):
    """
    Loads prompts as a KV connector; there is one in the scheduler and one in each worker.

    prompts: a worker's keys and values (L, 2, P, W) by digest, in host memory, keys rotated.
    """

    requires_kv_delivery = False  # nobody waits for a request's blocks once it is done

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._loads: list[Load] = []
        self._uncached: list[Any] = []
        self._lost: set[int] = set()
        self._may_pin = is_pin_memory_available()
        self.prompts: dict[str, Tensor] = {}

    # In the scheduler

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        _, num_positions = _prompt_of(request)
        if num_positions and request.skip_reading_prefix_cache:
            # It is asked how likely its text is, so no cache may be read. vLLM, which has just
            # not read its own, would read nothing of ours either, and take placeholders for text.
            request.skip_reading_prefix_cache = False
            self._uncached.append(request)
        return max(0, num_positions - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if not num_external_tokens:
            return
        digest, num_positions = _prompt_of(request)
        positions = range(num_positions)[-num_external_tokens:]
        block_ids = tuple(
            [None if block.is_null else block.block_id for block in of_group]
            for of_group in blocks.blocks
        )
        self._loads.append(Load(digest, positions, block_ids))

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        for request in self._uncached:
            request.skip_reading_prefix_cache = True
        self._uncached.clear()
        loads, self._loads = self._loads, []
        return Loads(loads)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        return False, None

    # In a worker

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        self.layers = layers_of(self._vllm_config, self._kv_cache_config)

    def keep(self, digest: str, kv_L2PW: Tensor) -> None:
        """Store a prompt in host memory, pinned if possible so that copies are asynchronous."""
        host = torch.empty(kv_L2PW.shape, dtype=kv_L2PW.dtype, pin_memory=self._may_pin)
        self.prompts[digest] = host.copy_(kv_L2PW)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write the prompts that the step needs; vLLM ends requests whose prompt is missing."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Loads)
        here = []
        for load in metadata.loads:
            if load.digest in self.prompts:
                here.append(load)
            else:
                self._lost.update(id_ for id_ in chain(*load.block_ids) if id_ is not None)
        if here:
            self._write(here)

    def _write(self, loads: Sequence[Load]) -> None:
        device = self.layers[0].attention.kv_cache.device
        parts = (self.prompts[load.digest][:, :, load.positions.start :] for load in loads)
        kv_L2TW = torch.cat([part.to(device, non_blocking=True) for part in parts], 2)
        slots_T = [
            torch.tensor(slots, pin_memory=self._may_pin).to(device, non_blocking=True)
            for slots in self._slots(loads)
        ]
        for layer, (keys_TW, values_TW) in zip(self.layers, kv_L2TW, strict=True):
            layer.write(keys_TW, values_TW, slots_T[layer.group])

    def _slots(self, loads: Sequence[Load]) -> Iterator[list[int]]:
        """Yield the slots of all positions of *loads*, for each KV cache group."""
        for i, group in enumerate(self._kv_cache_config.kv_cache_groups):
            size = group.kv_cache_spec.block_size
            yield [slot for load in loads for slot in load.slots(i, size)]

    def get_block_ids_with_load_errors(self) -> set[int]:
        lost, self._lost = self._lost, set()
        return lost

    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_for_save(self) -> None: ...


def _prompt_of(request: Any) -> tuple[str, int]:
    """Return digest and positions of the prompt of vLLM's *request*; "" and 0 without one."""
    digest, num_positions = (request.kv_transfer_params or {}).get(PROMPT, ("", 0))
    return digest, num_positions
