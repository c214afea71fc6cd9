"""
Runs plain vLLM, without our plugin, for comparison: what a user would choose instead.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from vllm import SamplingParams
from vllm.inputs.engine import embeds_input, tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_server.engine.contract import Delta, EngineConfig
from galenic_server.engine.vllm.launch import make_vllm


class PlainVllm:
    """Runs vLLM with multi-LoRA over *loras*, or with prompts as embeddings, as *more* enables."""

    def __init__(self, config: EngineConfig, loras: Sequence[Path] = (), **more: Any) -> None:
        self._config = config
        self._more = more
        self._loras = [
            LoRARequest(path.name, i, str(path)) for i, path in enumerate(loras, start=1)
        ]
        self._llm: AsyncLLM | None = None

    async def start(self) -> None:
        self._llm = await asyncio.to_thread(_make, self._config, self._more)

    async def stop(self) -> None:
        if self._llm is not None:
            if self._llm.output_handler is not None:
                self._llm.output_handler.cancel()
            await asyncio.to_thread(self._llm.shutdown)

    async def generate(
        self,
        text_ids: Sequence[int],
        num_tokens: int,
        *,
        tenant: str = "",
        lora: int | None = None,
        prompt_PD: Tensor | None = None,
    ) -> AsyncIterator[Delta]:
        """Generate *num_tokens* tokens; *prompt_PD*, if given, precedes the text as embeddings."""
        assert self._llm is not None, "started"
        params = SamplingParams(
            max_tokens=num_tokens,
            temperature=0,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt: Any = tokens_input(list(text_ids), cache_salt=tenant or None)
        if prompt_PD is not None:
            prompt = _mixed(prompt_PD, text_ids, tenant)
        request = self._loras[lora] if lora is not None else None
        outputs = self._llm.generate(prompt, params, secrets.token_hex(8), lora_request=request)
        async for output in outputs:
            yield Delta("", len(output.outputs[0].token_ids))


def _mixed(prompt_PD: Tensor, text_ids: Sequence[int], tenant: str) -> Any:
    num_positions, num_text = len(prompt_PD), len(text_ids)
    rows = prompt_PD.new_zeros(num_positions + num_text, prompt_PD.shape[1])
    rows[:num_positions] = prompt_PD
    return embeds_input(
        rows,
        cache_salt=tenant or None,
        prompt_token_ids=[0] * num_positions + list(text_ids),
        is_token_ids=[False] * num_positions + [True] * num_text,
    )


def _make(config: EngineConfig, more: dict[str, Any]) -> AsyncLLM:
    with _plain():
        return make_vllm(config, **more)


@contextmanager
def _plain() -> Iterator[None]:
    """Let processes that vLLM starts in the block load no plugins, including ours."""
    wanted = {"VLLM_PLUGINS": "", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
