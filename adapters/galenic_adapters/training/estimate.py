"""
What a recipe takes on a GPU, from the shape of its backbone.

Weights are counted on a model without memory; what a layer keeps for the backward pass is measured
on one layer of the true width; the rest is arithmetic. Only the share of the peak that a GPU
reaches is assumed, and said.

Dimension key:  A answer tokens   V vocabulary   L layers   D model width
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from galenic_adapters.errors import BadInput
from galenic_adapters.training.loop import BATCH_TOKENS
from galenic_adapters.training.recipe import Phase, Recipe

ARCHITECTURES = Path(__file__).parents[2] / "recipes" / "architectures"
TFLOPS = {"H100": 989.0, "H200": 989.0, "A100-80GB": 312.0}
"""Peak of dense bf16 products, by the makers' data sheets."""
GIGABYTES = {"H100": 80.0, "H200": 141.0, "A100-80GB": 80.0}
MEAN_TOKENS, MEAN_ANSWER = 190, 16
"""Of an example of the 21 sources, as a temperature of 2 draws them; measured by their tokens."""
LOGIT_COPIES = 6
"""Float32 arrays (A, V) at once: both models' logits, their softmaxes, and gradients."""
PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What counts of a backbone."""

    num_parameters: int
    num_active: int  # that one token goes through, without embeddings and head
    num_layers: int
    width: int
    attention_width: int
    vocab_size: int
    kept_bytes: float  # by one layer for one token's backward pass

    def forward_flops(self, context: float) -> float:
        """Of one token that attends to half of *context* on average, without the head."""
        return 2 * self.num_active + 4 * self.num_layers * self.attention_width * context / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Gigabytes (1e9) and hours, and what they were computed for."""

    what: str
    gigabytes: dict[str, float]
    room: float
    hours: dict[str, float]
    assumed: str

    @property
    def fits(self) -> bool:
        return sum(self.gigabytes.values()) < self.room

    def lines(self) -> Iterator[str]:
        yield self.what
        for name, size in self.gigabytes.items():
            yield f"  {name:<12} {size:8.2f} GB"
        verdict = "fits" if self.fits else "does not fit"
        total = sum(self.gigabytes.values())
        yield f"  in all       {total:8.2f} GB, {verdict} in {self.room:g} GB"
        for name, hours in self.hours.items():
            yield f"  {name:<12} {hours:8.2f} h"
        yield f"  {self.assumed}"


def estimate(recipe: Recipe, gpu: str = "H100", *, gpus: int = 1, use: float = 0.35) -> Estimate:
    """What each of *gpus* holds and how long they take. Raises `BadInput`."""
    if gpu not in TFLOPS:
        raise BadInput("gpu", f"{gpu[:40]!r} is none of {', '.join(TFLOPS)}")
    shape = shape_of(config_of(recipe))
    tokens = recipe.batch_tokens or BATCH_TOKENS["cuda"]
    answers = tokens * MEAN_ANSWER / MEAN_TOKENS
    spread = 1 + recipe.num_positions / MEAN_TOKENS if recipe.checkpointing else 1.0
    kept = 2.0 * shape.width if recipe.checkpointing else shape.kept_bytes
    # Checkpointing keeps each layer's input, and one layer's own while it is computed again.
    activations = tokens * spread * (shape.num_layers * kept + shape.kept_bytes)
    learned = recipe.num_positions * shape.width * len(recipe.sources) * (2 if recipe.distil else 1)
    gigabytes = {
        "weights": 2.0 * shape.num_parameters,
        "activations": activations,
        "logits": 4.0 * LOGIT_COPIES * answers * shape.vocab_size,
        "learned": 16.0 * learned,  # float32 with gradient and Adam's two moments
    }
    reached = gpus * use * TFLOPS[gpu] * 1e12
    phases = {"teachers": (recipe.teach, False), "metaprompt": (recipe.learn, bool(recipe.distil))}
    hours = {
        name: flops_of(phase, recipe, shape, is_taught=is_taught) / reached / 3600
        for name, (phase, is_taught) in phases.items()
        if phase
    }
    return Estimate(
        f"{recipe.backbone or recipe.architecture}: {shape.num_parameters / 1e9:.2f} billion"
        f" parameters, {tokens} text tokens a pass, on {gpus} x {gpu}",
        {name: size / 1e9 for name, size in gigabytes.items()},
        GIGABYTES[gpu],
        hours,
        f"at {use:.0%} of {TFLOPS[gpu]:g} TFLOP/s, examples of {MEAN_TOKENS} tokens,"
        f" {MEAN_ANSWER} of them answers",
    )


def flops_of(phase: Phase, recipe: Recipe, shape: Shape, *, is_taught: bool) -> float:
    """
    Of all steps. Backward costs as much as forward, since no weight has a gradient; checkpointing
    is one forward more, a teacher another.
    """
    rows = phase.num_steps * phase.rows_per_source * len(recipe.sources)
    context = recipe.num_positions + MEAN_TOKENS
    tokens = context if recipe.checkpointing else MEAN_TOKENS
    passes = 2 + int(recipe.checkpointing) + int(is_taught)
    head = 2 * shape.width * shape.vocab_size * MEAN_ANSWER * (2 + int(is_taught))
    return rows * (passes * tokens * shape.forward_flops(context) + head)


def config_of(recipe: Recipe) -> PretrainedConfig:
    """By the recipe's architecture, so that no hub is needed; else by its backbone."""
    path = ARCHITECTURES / f"{recipe.architecture}.json"
    if recipe.architecture and path.is_file():
        fields = json.loads(path.read_text("utf-8"))
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    if recipe.backbone:
        return AutoConfig.from_pretrained(recipe.backbone)
    raise BadInput(
        "architecture", f"{recipe.architecture!r} is not known, and no backbone is named"
    )


def shape_of(config: PretrainedConfig) -> Shape:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    inside = {n: p.numel() for n, p in model.named_parameters() if id(p) not in outside}
    experts = sum(size for name, size in inside.items() if ".experts." in name)
    share = getattr(config, "num_experts_per_tok", 1) / getattr(config, "num_local_experts", 1)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        sum(sizes.values()),
        int(sum(inside.values()) - experts * (1 - share)),
        config.num_hidden_layers,
        config.hidden_size,
        head * config.num_attention_heads,
        config.vocab_size,
        kept_bytes(config),
    )


def kept_bytes(config: PretrainedConfig) -> float:
    """Measured: what autograd keeps of one layer for a token in bf16, the frozen weights apart."""
    fields = config.to_dict() | {"num_hidden_layers": 1, "vocab_size": 64}
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][:1]
    one = type(config).from_dict(fields | {"pad_token_id": None})
    layer = AutoModelForCausalLM.from_config(one, dtype=torch.bfloat16).requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def back(tensor: Any) -> Any:
        return tensor

    rows = torch.randn(1, PROBE_TOKENS, one.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, back):
        states = layer.model(inputs_embeds=rows, use_cache=False).last_hidden_state
    assert states.requires_grad
    return sum(kept.values()) / PROBE_TOKENS
