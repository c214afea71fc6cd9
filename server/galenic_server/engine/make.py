"""Which engine serves: the one by name, without importing what the other needs."""

from galenic_server.engine.contract import (
    Engine,
    EngineConfig,
    FactorOf,
    FactorsOf,
    Gate,
    OpenGate,
    one_by_one,
)


def make_engine(
    kind: str,
    config: EngineConfig,
    factor_of: FactorOf,
    gate: Gate | None = None,
    *,
    factors_of: FactorsOf | None = None,
) -> Engine:
    """
    *kind* is ``vllm`` or ``transformers``; through *gate* its requests enter. *factors_of* fetches
    many factors at a time, where there is a better way than one by one.
    """
    gate = gate or OpenGate()
    factors_of = factors_of or one_by_one(factor_of)
    if kind == "vllm":
        from galenic_server.engine.vllm.engine import VllmEngine

        return VllmEngine(config, factors_of, gate)
    if kind == "transformers":
        from galenic_server.engine.transformers.engine import TransformersEngine

        return TransformersEngine(config, factors_of, gate)
    raise ValueError(f"engine {kind!r} is none of vllm, transformers")
