"""Which engine serves: the one by name, without importing what the other needs."""

from galenic_server.engine.base import Engine, EngineConfig, FactorOf, Gate, OpenGate


def make_engine(
    kind: str, config: EngineConfig, factor_of: FactorOf, gate: Gate | None = None
) -> Engine:
    """*kind* is ``vllm`` or ``transformers``; through *gate* its requests enter."""
    gate = gate or OpenGate()
    if kind == "vllm":
        from galenic_server.engine.vllm_engine import VllmEngine

        return VllmEngine(config, factor_of, gate)
    if kind == "transformers":
        from galenic_server.engine.transformers_engine import TransformersEngine

        return TransformersEngine(config, factor_of, gate)
    raise ValueError(f"engine {kind!r} is none of vllm, transformers")
