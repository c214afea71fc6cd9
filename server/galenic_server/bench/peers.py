"""
Measures vLLM's own alternatives beside ours: multi-LoRA, and composed prompts as embeddings.

The peer is a second engine of the same build, resident at the same time and measured in turn.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galenic_server.bench import preset as presets
from galenic_server.bench.asking import Speaker, of_engine
from galenic_server.bench.figures import peer as peer_name
from galenic_server.bench.lora import write_loras
from galenic_server.bench.stage import Arm, Stage, mixed, take_turns
from galenic_server.bench.workload import Prompt
from galenic_server.engine.contract import Delta, Engine
from galenic_server.engine.make import make_engine

if TYPE_CHECKING:
    from galenic_server.bench.bare import PlainVllm


async def measure(stage: Stage, engine: Engine) -> None:
    if stage.kind != "vllm":
        stage.missing["peers"] = f"the engine is {stage.kind}: the peers are vLLM's"
        return
    if not stage.preset.peers:
        stage.missing["peers"] = "two engines of this shape do not fit one GPU"
        return
    async with _eager(stage, engine) as eager:
        for peer in stage.preset.peers:
            await _against_loras(stage, engine, eager, peer)
    if stage.preset.form == "input":  # vLLM accepts prompt rows as embeddings
        await _against_embeddings(stage, engine)


def _is_eager(stage: Stage) -> bool:
    """Tell whether the peer must run eagerly: vLLM's LoRA layers do not compile on CPUs."""
    return stage.enforce_eager or not Path("/proc/driver/nvidia").exists()


@asynccontextmanager
async def _eager(stage: Stage, engine: Engine) -> AsyncIterator[Engine]:
    """Yield our engine run eagerly, as the peer must be; *engine* itself if it is no different."""
    if stage.enforce_eager or not _is_eager(stage):
        yield engine
        return
    config = stage.config(stage.preset.num_loras, eager=True)
    made = make_engine(stage.kind, config, stage.adapters_of)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def _against_loras(stage: Stage, engine: Engine, eager: Engine, peer: presets.Peer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loras = write_loras(
            Path(folder),
            stage.backbone,
            count=stage.preset.num_loras,
            rank=peer.rank,
            seed=stage.preset.seed,
        )
        more: dict[str, Any] = {
            "enable_lora": True,
            "max_lora_rank": peer.rank,
            "max_loras": peer.max_loras,
            "max_cpu_loras": len(loras),
        }
        async with _peer(stage, loras, more) as other:
            name = peer_name(peer.rank, peer.max_loras)
            await take_turns(
                stage,
                f"peers, {name}",
                _lora_arms(stage, engine, eager, other, name),
                stage.preset.peer_rounds,
            )


@asynccontextmanager
async def _peer(
    stage: Stage, loras: Sequence[Path], more: dict[str, Any]
) -> AsyncIterator["PlainVllm"]:
    from galenic_server.bench.bare import PlainVllm

    made = PlainVllm(stage.config(1, eager=_is_eager(stage)), loras, **more)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def _lora_arms(
    stage: Stage, engine: Engine, eager: Engine, other: "PlainVllm", name: str
) -> list[Arm]:
    """
    Make the arms of a comparison with multi-LoRA.

    From the second round on, both sides are warm: our prompts and the peer's weights are loaded.
    """

    def bare(number: int) -> list[Prompt]:
        return stage.draw(stage.rng(number, 10), stage.preset.peer_requests)

    def adapted(number: int) -> list[Prompt]:
        rng = stage.rng(number, 11)
        return mixed(bare(number), stage.preset.num_loras, rng, tenant="peers")

    return [
        Arm("bare", of_engine(engine), bare),
        Arm("ours", of_engine(engine), adapted),
        Arm("bare, eager", of_engine(eager), bare),
        Arm("ours, eager", of_engine(eager), adapted),
        Arm(f"bare beside {name}", _of_loras(other), bare),
        Arm(name, _of_loras(other), adapted),
    ]


def _of_loras(other: "PlainVllm") -> Speaker:
    def speak(prompt: Prompt) -> AsyncIterator[Delta]:
        number = int(prompt.adapter.rpartition("-")[2]) if prompt.adapter else None
        return other.generate(prompt.text_ids, prompt.num_tokens, tenant=prompt.tenant, lora=number)

    return speak


async def _against_embeddings(stage: Stage, engine: Engine) -> None:
    factors = stage.factors

    def adapted(number: int) -> list[Prompt]:
        drawn = stage.draw(stage.rng(number, 12), stage.preset.num_requests)
        return mixed(drawn, stage.preset.num_loras, stage.rng(number, 13))

    async with AsyncExitStack() as stack:
        more = {"enable_prompt_embeds": True, "enforce_eager": stage.enforce_eager}
        other = await stack.enter_async_context(_peer(stage, (), more))

        def speak(prompt: Prompt) -> AsyncIterator[Delta]:
            assert prompt.adapter is not None
            rows_PD = factors(prompt.adapter).rows_PD
            return other.generate(
                prompt.text_ids, prompt.num_tokens, tenant=prompt.tenant, prompt_PD=rows_PD
            )

        arms = [Arm("ours", of_engine(engine), adapted), Arm("embeds", speak, adapted)]
        await take_turns(stage, "peers, embeds", arms, stage.preset.peer_rounds)
