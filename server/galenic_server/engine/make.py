"""Which engine serves: the one by name, without importing what the other needs."""

from galenic_server.engine.contract import (
    AdapterOf,
    AdaptersOf,
    Engine,
    EngineConfig,
    Gate,
    OpenGate,
    one_by_one,
)


def make_engine(
    kind: str,
    config: EngineConfig,
    adapter_of: AdapterOf,
    gate: Gate | None = None,
    *,
    adapters_of: AdaptersOf | None = None,
) -> Engine:
    """
    *kind* is ``vllm`` or ``transformers``; through *gate* its requests enter. *adapters_of* fetches
    many adapters at a time, where there is a better way than one by one.
    """
    gate = gate or OpenGate()
    adapters_of = adapters_of or one_by_one(adapter_of)
    if kind == "vllm":
        from galenic_server.engine.vllm.engine import VllmEngine

        return VllmEngine(config, adapters_of, gate)
    if kind == "transformers":
        from galenic_server.engine.transformers.engine import TransformersEngine

        return TransformersEngine(config, adapters_of, gate)
    raise ValueError(f"engine {kind!r} is none of vllm, transformers")
