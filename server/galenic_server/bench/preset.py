"""
How large a run is. A figure in a report belongs to one preset.
"""

from dataclasses import dataclass
from typing import Literal

Form = Literal["scales", "input", "deep"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens in and out of a request, each drawn evenly between its two ends."""

    text: tuple[int, int]
    answer: tuple[int, int]


SMALL = Lengths((110, 110), (32, 32))
SLORA = Lengths((8, 512), (8, 512))
CLINICAL = Lengths((600, 1000), (24, 64))  # a long note in, a short JSON out


@dataclass(frozen=True, slots=True)
class Peer:
    """vLLM's multi-LoRA: rank of its adapters, and how many fit side by side."""

    rank: int
    max_loras: int


@dataclass(frozen=True, slots=True)
class Preset:
    """
    num_requests: of a round and arm.   sizes: how many adapters are in the mix.   alphas: of
    numpy's power law; zipf and uniform come on their own.   cvs: of gaps between arrivals.
    loads: rates of arrival as shares of what bare reached.   shapes: backbones without weights, by
    the name of their recipe; none for the real one.   parts: what is measured unless told
    otherwise.   churn: uploads, and deletes, a second.   form: of the adapters.   num_positions: of
    their prompts, and of the text prefix that they are compared with.
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
