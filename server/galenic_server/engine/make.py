"""Makes an engine by name, without importing what the other one needs."""

from galenic_server.engine.contract import (
    AdaptersOf,
    Engine,
    EngineConfig,
    Gate,
    OpenGate,
)


def make_engine(
    kind: str, config: EngineConfig, adapters_of: AdaptersOf, gate: Gate | None = None
) -> Engine:
    """Make the engine *kind*, ``vllm`` or ``transformers``; its requests enter through *gate*."""
    gate = gate or OpenGate()
    if kind == "vllm":
        from galenic_server.engine.vllm.engine import VllmEngine

        return VllmEngine(config, adapters_of, gate)
    if kind == "transformers":
        from galenic_server.engine.transformers.engine import TransformersEngine

        return TransformersEngine(config, adapters_of, gate)
    raise ValueError(f"engine {kind!r} is none of vllm, transformers")
