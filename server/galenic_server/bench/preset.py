"""
Presets set the size of a run; every figure in a report belongs to one.
"""

from dataclasses import dataclass
from typing import Literal

Form = Literal["scales", "input", "deep"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Bounds the tokens of texts and answers, drawn uniformly between the two ends."""

    text: tuple[int, int]
    answer: tuple[int, int]


SMALL = Lengths((110, 110), (32, 32))
SLORA = Lengths((8, 512), (8, 512))
CLINICAL = Lengths((600, 1000), (24, 64))  # a long note in, a short JSON out


@dataclass(frozen=True, slots=True)
class Peer:
    """Configures vLLM's multi-LoRA: rank of its adapters, and how many fit in a batch."""

    rank: int
    max_loras: int


@dataclass(frozen=True, slots=True)
class Preset:
    """
    Sets the size of a run.

    num_requests: per round and arm.   sizes: numbers of adapters in the mix.   alphas: exponents of
    numpy's power law, besides zipf and uniform.   cvs: coefficients of variation of gaps between
    arrivals.   loads: arrival rates as shares of bare's saturation.   shapes: backbones without
    weights, by name of their recipe; none for the real one.   parts: measured by default.
    churn: uploads, and deletes, per second.   form: of the adapters.   num_positions: of their
    prompts, and of the text prefix that they are compared with.
    """

    num_requests: int = 128
    num_rounds: int = 5
    concurrency: int = 64
    sizes: tuple[int, ...] = (1, 16, 1000)
    lengths: Lengths = SMALL
    mixed: tuple[tuple[str, Lengths], ...] = (("U[8,512]", SLORA), ("clinical", CLINICAL))
    mixed_requests: int = 16
    alphas: tuple[float, ...] = ()
    cvs: tuple[float, ...] = (1,)
    loads: tuple[float, ...] = (0.7,)
    peers: tuple[Peer, ...] = (Peer(16, 8),)
    num_loras: int = 64
    peer_requests: int = 64
    peer_rounds: int = 3
    churn: int = 20
    num_uploads: int = 100
    form: Form = "scales"
    num_positions: int = 64
    context_tokens: int = 1280
    seed: int = 0
    shapes: tuple[str, ...] = ()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    parts: tuple[str, ...] = ("residency", "churn", "constrained", "http", "peers", "mix")


_SIZES = (1, 8, 16, 100, 1000, 10_000, 100_000)

PRESETS = {
    "quick": Preset(
        num_requests=64,
        num_rounds=2,
        peer_rounds=2,
        parts=("residency", "churn", "constrained", "http", "peers"),
    ),
    "cpu": Preset(
        sizes=_SIZES,
        alphas=(1, 0.6, 0.3, 0.1),
        cvs=(1, 4, 8),
        loads=(0.5, 0.9),
        peers=(Peer(8, 8), Peer(16, 8), Peer(16, 32)),
    ),
    "gpu": Preset(
        num_requests=512,
        num_rounds=3,
        concurrency=256,
        sizes=(1, 16, 1000, 100_000),
        mixed_requests=256,
        peer_requests=128,
        num_positions=100,
        parts=("residency", "churn", "constrained", "peers"),
        shapes=("llama-3.1-8b", "gpt-oss-20b"),
    ),
}
