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
from vllm.v1.outputs import LogprobsTensors

from galenic_server.engine.vllm.layers import layers_of

NOWHERE = -1  # a slot that vLLM's kernels skip


@dataclass(frozen=True, slots=True)
class PromptRef:
    """A prompt that a request begins with, by its digest."""

    digest: str
    num_positions: int

    def placeholders(self, text_ids: Sequence[int]) -> list[int]:
        """
        Token ids that stand for it before a text: one of the text's own, so that a penalty on what
        the ids hold is a penalty on what the text holds.
        """
        return [text_ids[0]] * self.num_positions

    def put_before(self, params: SamplingParams) -> None:
        """
        Make *params* carry it.

        Where a text's own likelihood is asked, vLLM would read nothing from elsewhere, and take the
        placeholders for text; such a request needs a ``cache_salt`` of its own instead.
        """
        params.extra_args = {"kv_transfer_params": {"prompt": (self.digest, self.num_positions)}}
        params.skip_reading_prefix_cache = False

    @classmethod
    def of(cls, request: Any) -> "PromptRef | None":
        """The prompt of vLLM's *request*, if it has one."""
        params = request.kv_transfer_params
        return cls(*params["prompt"]) if params else None


@dataclass(frozen=True, slots=True)
class Load:
    """
    Positions of a prompt to write into a request's blocks.

    block_ids: for each KV cache group, those that hold the prompt; none for a block that no layer
    of the group reads any more, being outside its window.
    """

    digest: str
    positions: range
    block_ids: tuple[list[int | None], ...]

    def slots(self, group: int, block_size: int) -> Iterator[int]:
        """Where each position goes in the cache of *group*."""
        block_ids = self.block_ids[group]
        for position in self.positions:
            block = block_ids[position // block_size]
            yield NOWHERE if block is None else block * block_size + position % block_size


@dataclass(frozen=True, slots=True)
class Loads(KVConnectorMetadata):
    """What the scheduler asks of the workers in one step."""

    loads: list[Load]


class PromptConnector(KVConnectorBase_V1, SupportsHMA):
    """
    Made once in the scheduler and once in each worker; *prompts* are a worker's.

    prompts: keys and values (L, 2, P, W) by digest, in host memory, the keys rotated.
    """

    requires_kv_delivery = False  # nobody waits for a request's blocks once it is done

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._loads: list[Load] = []
        self._lost: set[int] = set()
        self._may_pin = is_pin_memory_available()
        self.prompts: dict[str, Tensor] = {}

    # In the scheduler

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        prompt = PromptRef.of(request)
        missing = prompt.num_positions - num_computed_tokens if prompt else 0
        return max(0, missing), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        prompt = PromptRef.of(request)
        if prompt is None or not num_external_tokens:
            return
        positions = range(prompt.num_positions)[-num_external_tokens:]
        block_ids = tuple(
            [None if block.is_null else block.block_id for block in of_group]
            for of_group in blocks.blocks
        )
        self._loads.append(Load(prompt.digest, positions, block_ids))

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        loads, self._loads = self._loads, []
        return Loads(loads)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        return False, None

    # In a worker

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        self.layers = layers_of(self._vllm_config, self._kv_cache_config)
        LogprobsTensors.empty_cpu = _zeros  # type: ignore[method-assign]

    def keep(self, digest: str, kv_L2PW: Tensor) -> None:
        """Keep a prompt, in memory that a device can copy from meanwhile."""
        host = torch.empty(kv_L2PW.shape, dtype=kv_L2PW.dtype, pin_memory=self._may_pin)
        self.prompts[digest] = host.copy_(kv_L2PW)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write what the step needs. vLLM ends a request whose prompt is not here."""
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
        """Where the positions of all *loads* go, for each KV cache group."""
        for i, group in enumerate(self._kv_cache_config.kv_cache_groups):
            size = group.kv_cache_spec.block_size
            yield [slot for load in loads for slot in load.slots(i, size)]

    def get_block_ids_with_load_errors(self) -> set[int]:
        lost, self._lost = self._lost, set()
        return lost

    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_for_save(self) -> None: ...


def _zeros(num_positions: int, num_tokens: int) -> LogprobsTensors:
    """
    What vLLM's runner V1 fills with the likelihoods of a text's tokens.

    It leaves the positions of a prompt as they are, and the server then looks up the names of
    those ids. Memory that nobody has written to would end it there.
    """
    logprobs = torch.zeros(num_positions, num_tokens)
    return LogprobsTensors(
        logprob_token_ids=logprobs.int(),
        logprobs=logprobs,
        selected_token_ranks=logprobs[:, 0].int(),
    )
