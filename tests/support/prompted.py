"""
vLLM with our connector and nothing else of ours, and what transformers says of the same prompts.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from vllm import RequestOutput, SamplingParams
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_adapters.factor import Composed
from galenic_server.engine.contract import EngineConfig, Request, Sampling
from galenic_server.engine.transformers.decoding import Penalties
from galenic_server.engine.vllm.connector import PromptRef
from galenic_server.engine.vllm.engine import make_vllm
from galenic_server.engine.vllm.prompts import PromptWorker, pack
from tests.support.engines import CONTEXT_TOKENS, metaprompt

Said = tuple[list[int], list[float]]
"""Token ids, and the log-probability of each."""


@dataclass(frozen=True)
class Ask:
    """A text, the name of the prompt before it, and what vLLM's `SamplingParams` shall say."""

    text: str
    prompt: str | None = None
    tenant: str = ""
    params: dict[str, Any] = field(default_factory=dict)


class CountingWorker(PromptWorker):
    """Also counts the prompts that it wrote into requests' blocks."""

    num_loads = 0

    def count_loads(self) -> None:
        """From now on."""
        connector = get_kv_transfer_group()
        write = connector._write

        def counted(loads: list[Any]) -> None:
            self.num_loads += len(loads)
            write(loads)

        connector._write = counted

    def loads(self) -> int:
        return self.num_loads


class PromptedVllm:
    """A started engine and its event loop; *prompts* are those that it was told to keep."""

    def __init__(self, llm: AsyncLLM, folder: Path, runner: asyncio.Runner) -> None:
        self.llm = llm
        self.run = runner.run
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompts: dict[str, Composed] = {}
        self._random = torch.Generator().manual_seed(0)
        self._num_requests = 0

    def keep(self, **prompts: Composed) -> None:
        """Make these prompts known to the workers."""
        self.prompts |= prompts
        packed = {name: pack(prompt) for name, prompt in prompts.items()}
        self.run(self.llm.collective_rpc("keep_prompts", args=(packed,)))

    def rows(self, num_positions: int) -> Composed:
        """A random prompt at the input."""
        embedding = self.model.get_input_embeddings().weight
        noise_PD = torch.randn(num_positions, embedding.shape[1], generator=self._random)
        return Composed(rows_PD=noise_PD * embedding.std())

    def deep(self, num_positions: int) -> Composed:
        """A random prompt of every layer, about as large as what the backbone makes of rows."""
        cache = DynamicCache()
        rows_PD = self.rows(num_positions).rows_PD
        with torch.inference_mode():
            self.model(inputs_embeds=rows_PD[None], past_key_values=cache)
        made = cache.layers
        keys, values = (
            torch.stack([getattr(layer, name)[0].transpose(0, 1).flatten(1) for layer in made])
            for name in ("keys", "values")
        )
        noise = torch.randn(2, *keys.shape, generator=self._random) * 0.3 + 1
        return Composed(prefix=(keys * noise[0], values * noise[1]))

    def ask(self, *asks: Ask) -> list[RequestOutput]:
        """The answers to requests sent at once; greedy, of 12 tokens, unless they say otherwise."""

        async def gather() -> list[RequestOutput]:
            return await asyncio.gather(*map(self.answer, asks))

        return self.run(gather())

    async def answer(self, ask: Ask) -> RequestOutput:
        async for output in self.outputs(ask, output_kind=RequestOutputKind.FINAL_ONLY):
            last = output
        return last

    def outputs(self, ask: Ask, **more: Any) -> Any:
        """vLLM's outputs as they come."""
        ids = self.tokenizer.encode(ask.text)
        usual = {"max_tokens": 12, "temperature": 0, "logprobs": 0, "ignore_eos": True}
        params = SamplingParams(**usual | ask.params | more)
        if ask.prompt is not None:
            ref = PromptRef(ask.prompt, self.prompts[ask.prompt].num_positions)
            ids = [*ref.placeholders(ids), *ids]
            ref.put_before(params)
        self._num_requests += 1
        own = self._num_requests if params.prompt_logprobs is not None else ""
        prompt = tokens_input(ids, cache_salt=f"{ask.tenant} {ask.prompt} {own}")
        return self.llm.generate(prompt, params, f"test-{self._num_requests}")

    @torch.inference_mode()
    def likelihoods(self, ask: Ask) -> list[float]:
        """The log-probability of each token of the text but the first, by transformers."""
        ids = self.tokenizer.encode(ask.text)
        prompt = self.prompts[ask.prompt] if ask.prompt else Composed()
        embeds = self.model.get_input_embeddings()(torch.tensor(ids))
        if prompt.rows_PD is not None:
            embeds = torch.cat([prompt.rows_PD, embeds])
        cache = _cache(self.model, prompt)
        logits_TV = self.model(inputs_embeds=embeds[None], past_key_values=cache).logits[0]
        logprobs_TV = logits_TV[-len(ids) : -1].log_softmax(-1)
        return logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    @torch.inference_mode()
    def expected(self, ask: Ask) -> Said:
        """What transformers says, by the likeliest token under the penalties asked for."""
        ids = self.tokenizer.encode(ask.text)
        prompt = self.prompts[ask.prompt] if ask.prompt else Composed()
        cache, embed = _cache(self.model, prompt), self.model.get_input_embeddings()
        penalties = Penalties(Request("", "", ids, _sampling(ask.params)))
        embeds = embed(torch.tensor(ids))
        if prompt.rows_PD is not None:
            embeds = torch.cat([prompt.rows_PD, embeds])
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < ask.params.get("max_tokens", 12):
            logits_V = self.model(inputs_embeds=embeds[None], past_key_values=cache).logits[0, -1]
            tokens.append(int(penalties(logits_V).argmax()))
            logprobs.append(float(logits_V.log_softmax(-1)[tokens[-1]]))
            penalties.add(tokens[-1])
            embeds = embed(torch.tensor([tokens[-1]]))
        return tokens, logprobs


def said(output: RequestOutput) -> Said:
    (answer,) = output.outputs
    ids = list(answer.token_ids)
    return ids, [of[id_].logprob for of, id_ in zip(answer.logprobs, ids, strict=True)]


def _cache(model: Any, prompt: Composed) -> DynamicCache:
    cache = DynamicCache()  # one that knows the model's windows would drop what is before them
    for layer, kv in enumerate(zip(*prompt.prefix, strict=True) if prompt.prefix else ()):
        keys, values = (_heads(x_PW, model.config.num_key_value_heads) for x_PW in kv)
        cache.update(keys, values, layer)
    return cache


def _heads(x_PW: Tensor, num_heads: int) -> Tensor:
    return x_PW.unflatten(-1, (num_heads, -1)).transpose(0, 1)[None]


def _sampling(params: dict[str, Any]) -> Sampling:
    kept = {name: params[name] for name in params if name.endswith("_penalty")}
    return Sampling(max_tokens=1, **kept)


@contextmanager
def prompted(folder: Path, **options: Any) -> Iterator[PromptedVllm]:
    """vLLM in float32, uncompiled and small unless *options* say otherwise."""
    config = EngineConfig(
        str(folder),
        metaprompt(),
        secret=b"",
        dtype="float32",
        context_tokens=CONTEXT_TOKENS,
        enforce_eager=options.pop("enforce_eager", True),
        tensor_parallel_size=options.pop("tensor_parallel_size", 1),
        options={"kv_cache_memory_bytes": 4 << 20, "max_num_seqs": 32} | options,
    )
    connector = KVTransferConfig(
        kv_connector="PromptConnector",
        kv_connector_module_path="galenic_server.engine.vllm.connector",
        kv_role="kv_producer",
    )
    with asyncio.Runner() as runner:
        llm = make_vllm(
            config,
            kv_transfer_config=connector,
            worker_extension_cls="tests.support.prompted.CountingWorker",
        )
        try:
            yield PromptedVllm(llm, folder, runner)
        finally:
            if llm.output_handler is not None:
                llm.output_handler.cancel()
            llm.shutdown()
