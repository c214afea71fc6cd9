"""
Writes adapters as checkpoints that PEFT loads.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from galenic_adapters.errors import BadFactor, BadInput
from galenic_adapters.factor import Composed, Factor, Metaprompt, compose
from galenic_adapters.package.file import Package
from galenic_adapters.package.peft_form import (
    COLS,
    CONFIG,
    IA3,
    LAYERS,
    MODULES,
    MULTITASK,
    PREFIX,
    PROMPT,
    ROWS,
    SHARED,
    TAKEN_IN,
    TENSORS,
    VECTOR,
    vector_shape,
)
from galenic_adapters.shape import PLACES

Form = Literal["multitask", "prompt"]
"""How products are written: as tasks of one checkpoint, or one product as composed rows."""


def write_checkpoint(
    folder: Path,
    metaprompt: Metaprompt | None,
    packages: Sequence[Package],
    *,
    form: Form = "multitask",
    places: Collection[str] = PLACES,
) -> None:
    """
    Write *packages* over *metaprompt* as a checkpoint; raises `BadInput` if PEFT has no such form.

    Products become tasks 0, 1, … of one multitask checkpoint (lower ranks are padded with zeros).
    Any other form, and the form ``prompt``, takes one package, which is written as composed.
    places: where PEFT finds a module of the backbone to scale.
    """
    _check_together(metaprompt, packages)
    composed = [_composed(metaprompt, package, places) for package in packages]
    if form == "multitask" and all("u" in package.manifest.shapes for package in packages):
        tensors, config = _multitask(metaprompt, [package.factor for package in packages])
    elif len(packages) == 1:
        tensors, config = _alone(composed[0])
    else:
        raise BadInput("packages", f"{len(packages)} given; only products go together, as tasks")
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (folder / TENSORS).write_bytes(save(plain, metadata={"format": "pt"}))
    config |= {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": packages[0].manifest.backbone.name,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    is_multitask = config["peft_type"] == MULTITASK
    (folder / "README.md").write_text(_card(packages, is_multitask), "utf-8")


def _check_together(metaprompt: Metaprompt | None, packages: Sequence[Package]) -> None:
    if not packages:
        raise BadInput("packages", "none given")
    here = metaprompt and metaprompt.digest
    for package in packages:
        if (named := package.manifest.metaprompt) not in (None, here):
            raise BadInput(package.manifest.name, f"is for metaprompt {named}, not {here}")
    if len(backbones := {str(package.manifest.backbone) for package in packages}) > 1:
        raise BadInput("packages", f"are for several backbones: {', '.join(sorted(backbones))}")


def _composed(metaprompt: Metaprompt | None, package: Package, places: Collection[str]) -> Composed:
    """Compose *package*; raises `BadInput` if PEFT has no type for the result."""
    name = package.manifest.name
    try:
        composed = compose(metaprompt if package.manifest.metaprompt else None, package.factor)
    except BadFactor as error:
        raise BadInput(name, str(error)) from error
    scaled = ", ".join(composed.scales)
    if composed.prompt and composed.scales:
        raise BadInput(name, f"has a prompt and scales of {scaled}; no type of PEFT has both")
    if strange := set(composed.scales) - set(places):
        served = ", ".join(places)
        raise BadInput(
            name, f"scales {', '.join(sorted(strange))}; PEFT finds {served} in this backbone"
        )
    return composed


def _multitask(
    metaprompt: Metaprompt | None, factors: Sequence[Factor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stack products as tasks, in one dtype that loses nothing, since PEFT keeps only one."""
    rank = max(factor.rank for factor in factors)
    assert metaprompt is not None, "products composed"
    assert metaprompt.rows_PD is not None, "products composed"
    products = [factor.product for factor in factors]
    stacked = {
        SHARED: metaprompt.rows_PD,
        COLS: torch.stack([pad(u_PR, (0, rank - u_PR.shape[1])) for u_PR, _ in products]),
        ROWS: torch.stack([pad(v_RD, (0, 0, 0, rank - len(v_RD))) for _, v_RD in products]),
    }
    config = _prompt_config(MULTITASK, metaprompt.rows_PD)
    return _of_one_dtype(stacked), config | {"num_tasks": len(factors), "num_ranks": rank}


def _alone(composed: Composed) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if composed.rows_PD is not None:
        return {SHARED: composed.rows_PD}, _prompt_config(PROMPT, composed.rows_PD)
    if composed.prefix is not None:
        return _prefix(*composed.prefix)
    modules = {place: MODULES[place].rpartition(".")[2] for place in composed.scales}
    config = {
        "peft_type": IA3,
        "target_modules": list(modules.values()),
        "feedforward_modules": [modules[place] for place in modules if place in TAKEN_IN],
    }
    return _of_one_dtype(_vectors(composed.scales)), config


def _prefix(keys_LPW: Tensor, values_LPW: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    num_layers, num_positions, width = keys_LPW.shape
    by_position = torch.stack([keys_LPW, values_LPW], dim=1).permute(2, 0, 1, 3)
    config = {
        "peft_type": PREFIX,
        "num_virtual_tokens": num_positions,
        "num_layers": num_layers,
        "token_dim": width,
        "num_attention_heads": None,  # PEFT reads it from the model
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    return {SHARED: by_position.reshape(num_positions, -1)}, config


def _vectors(scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{LAYERS}{layer}.{MODULES[place]}{VECTOR}": vector_W.reshape(
            vector_shape(place, len(vector_W))
        ).clone()
        for place, scale_LW in scales.items()
        for layer, vector_W in enumerate(scale_LW)
    }


def _of_one_dtype(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _prompt_config(peft_type: str, rows_PD: Tensor) -> dict[str, Any]:
    num_positions, width = rows_PD.shape
    return {
        "peft_type": peft_type,
        "num_virtual_tokens": num_positions,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }


def _card(packages: Sequence[Package], is_multitask: bool) -> str:
    """Render a card that lists each task id's adapter, task, labels and licence."""
    rows = [
        f"| {number} | {m.name} | {m.task} | {', '.join(m.labels)} | {m.licence} |"
        for number, m in enumerate(package.manifest for package in packages)
    ]
    how = "Pass `task_ids` with every call." if is_multitask else ""
    head = f"Adapters for {packages[0].manifest.backbone}, exported by Galenic. {how}".strip()
    table = ["| task id | adapter | task | labels | licence |", "|---|---|---|---|---|", *rows]
    return "\n".join(["---", "library_name: peft", "---", head, "", *table, ""])
