"""
Estimates the GPU memory and the hours that a recipe needs, from its backbone's configuration.

Weights are counted on a model without memory (torch's meta device). The activations that autograd
keeps are measured on one layer of the true width. The rest is arithmetic. Only the GPU utilization
is assumed, and the estimate states it.

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

from galenic_adapters.backbone.weights import ensure
from galenic_adapters.backbone.weights import shape_of as backbone_shape
from galenic_adapters.errors import BadInput
from galenic_adapters.training.loop import BATCH_TOKENS
from galenic_adapters.training.recipe import Phase, Recipe

ARCHITECTURES = Path(__file__).parents[2] / "recipes" / "architectures"
TFLOPS = {"H100": 989.0, "H200": 989.0, "A100-80GB": 312.0}
"""Peak dense bf16 throughput, from the makers' data sheets."""
GIGABYTES = {"H100": 80.0, "H200": 141.0, "A100-80GB": 80.0}
MEAN_TOKENS, MEAN_ANSWER = 190, 16
"""Mean tokens of an example and of its answer, measured over 21 sources at temperature 2."""
LOGIT_COPIES = 6
"""Float32 arrays (A, V) alive at once: logits and softmaxes of both models, and gradients."""
PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Holds the sizes of a backbone that memory and time depend on."""

    num_parameters: int
    num_active: int  # parameters used per token, without embeddings and head
    num_layers: int
    width: int
    attention_width: int
    vocab_size: int
    kept_bytes: float  # that autograd keeps per token and layer

    def forward_flops(self, context: float) -> float:
        """Return FLOPs per token without the head; it attends to half of *context* on average."""
        return 2 * self.num_active + 4 * self.num_layers * self.attention_width * context / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Holds gigabytes (1e9 bytes) by use, hours by phase, and the setup they were computed for."""

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
    """
    Estimate the memory of each of *gpus* and the hours that they take together.

    *use* is the assumed share of the peak throughput. Raises `BadInput` for an unknown *gpu*.
    """
    if gpu not in TFLOPS:
        raise BadInput("gpu", f"{gpu[:40]!r} is none of {', '.join(TFLOPS)}")
    config = config_of(recipe)
    shape = shape_of(config)
    tokens = recipe.batch_tokens or BATCH_TOKENS["cuda"]
    answers = tokens * MEAN_ANSWER / MEAN_TOKENS
    spread = 1 + _num_prefix(recipe) / MEAN_TOKENS if recipe.checkpointing else 1.0
    whole_layer = shape.kept_bytes + _scaled_bytes(recipe, config)
    kept = 2.0 * shape.width if recipe.checkpointing else whole_layer
    # With checkpointing, autograd keeps each layer's bf16 input, and all activations of the one
    # layer that is being recomputed.
    activations = tokens * spread * (shape.num_layers * kept + whole_layer)
    learned = num_learned(recipe, config) * len(recipe.sources) * (2 if recipe.distil else 1)
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
    name = recipe.backbone or recipe.architecture or "the default backbone"
    return Estimate(
        f"{name}: {shape.num_parameters / 1e9:.2f} billion"
        f" parameters, {tokens} text tokens a pass, on {gpus} x {gpu}",
        {name: size / 1e9 for name, size in gigabytes.items()},
        GIGABYTES[gpu],
        hours,
        f"at {use:.0%} of {TFLOPS[gpu]:g} TFLOP/s, examples of {MEAN_TOKENS} tokens,"
        f" {MEAN_ANSWER} of them answers",
    )


def num_learned(recipe: Recipe, config: PretrainedConfig) -> int:
    """Return the numbers that one source learns; the shared ones are few beside all sources'."""
    shapes = backbone_shape(config).scale_shapes(recipe.places)
    if recipe.form == "input":
        return recipe.num_positions * config.get_text_config().hidden_size
    return sum(num_layers * width for num_layers, width in shapes.values())


def _num_prefix(recipe: Recipe) -> int:
    """Return the positions of the learned prompt; scales have none."""
    return recipe.num_positions if recipe.form == "input" else 0


def _scaled_bytes(recipe: Recipe, config: PretrainedConfig) -> float:
    """Return the bytes per token that one layer keeps for the gradients of its scales."""
    if recipe.form == "input":
        return 0.0
    shape = backbone_shape(config)
    return 2.0 * sum(map(shape.scale_width, recipe.places))


def flops_of(phase: Phase, recipe: Recipe, shape: Shape, *, is_taught: bool) -> float:
    """
    Return the FLOPs of all steps of *phase*.

    Backward costs as much as forward, since no weight has a gradient. Checkpointing adds one
    forward pass, a teacher another.
    """
    rows = phase.num_steps * phase.rows_per_source * len(recipe.sources)
    context = _num_prefix(recipe) + MEAN_TOKENS
    tokens = context if recipe.checkpointing else MEAN_TOKENS
    passes = 2 + int(recipe.checkpointing) + int(is_taught)
    head = 2 * shape.width * shape.vocab_size * MEAN_ANSWER * (2 + int(is_taught))
    return rows * (passes * tokens * shape.forward_flops(context) + head)


def config_of(recipe: Recipe) -> PretrainedConfig:
    """
    Return the configuration of *recipe*'s architecture, for which no hub is needed, or else of its
    backbone, the default one if none is named. Raises `BadInput` for an unknown architecture.
    """
    path = ARCHITECTURES / f"{recipe.architecture}.json"
    if recipe.architecture and path.is_file():
        fields = json.loads(path.read_text("utf-8"))
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    if recipe.architecture and not recipe.backbone:
        known = ", ".join(sorted(path.stem for path in ARCHITECTURES.glob("*.json")))
        raise BadInput("architecture", f"{recipe.architecture[:40]!r} is none of {known}")
    return AutoConfig.from_pretrained(recipe.backbone or ensure().path)


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
    """
    Measure the bytes that autograd keeps per token in one bf16 layer, without frozen weights.

    Counts storages, since saved tensors can be views of one another.
    """
    fields = config.to_dict() | {"num_hidden_layers": 1, "vocab_size": 64}
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][:1]
    small = type(config).from_dict(fields | {"pad_token_id": None})
    layer = AutoModelForCausalLM.from_config(small, dtype=torch.bfloat16).requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def back(tensor: Any) -> Any:
        return tensor

    rows = torch.randn(1, PROBE_TOKENS, small.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, back):
        states = layer.model(inputs_embeds=rows, use_cache=False).last_hidden_state
    assert states.requires_grad
    return sum(kept.values()) / PROBE_TOKENS
