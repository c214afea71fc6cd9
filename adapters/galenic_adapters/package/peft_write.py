"""
Adapters written as PEFT loads them.
"""

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_adapters.package.file import Package
from galenic_adapters.package.peft_form import (
    COLS,
    CONFIG,
    DENSE,
    MULTITASK,
    ROWS,
    SHARED,
    TENSORS,
)

Form = Literal["multitask", "prompt"]
_TAKES: dict[Form, str] = {"multitask": "one or more", "prompt": "one"}


def write_checkpoint(
    folder: Path, metaprompt: Metaprompt, packages: Sequence[Package], *, form: Form = "multitask"
) -> None:
    """
    *packages* over *metaprompt* as PEFT loads them: as tasks 0, 1, … of one multitask checkpoint
    (lower ranks filled up with zeros), or one composed prompt. Raises `BadInput`.
    """
    _check_together(metaprompt, packages, form)
    if form == "prompt":
        rows_PD = compose(metaprompt, packages[0].factor).rows_PD
        assert rows_PD is not None
        tensors = {SHARED: rows_PD}
    else:
        tensors = _stacked(metaprompt, [package.factor for package in packages])
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (folder / TENSORS).write_bytes(save(plain, metadata={"format": "pt"}))
    config = _config(metaprompt, packages, tensors)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(_card(packages, form), "utf-8")


def _check_together(metaprompt: Metaprompt, packages: Sequence[Package], form: Form) -> None:
    if not packages or (form == "prompt" and len(packages) != 1):
        raise BadInput("packages", f"{len(packages)} given, {form} takes {_TAKES[form]}")
    for package in packages:
        manifest = package.manifest
        if manifest.metaprompt != metaprompt.digest:
            raise BadInput(
                manifest.name, f"is for metaprompt {manifest.metaprompt}, not {metaprompt.digest}"
            )
    if len(backbones := {str(package.manifest.backbone) for package in packages}) > 1:
        raise BadInput("packages", f"are for several backbones: {', '.join(sorted(backbones))}")


def _stacked(metaprompt: Metaprompt, factors: Sequence[Factor]) -> dict[str, Tensor]:
    """In one dtype, which loses nothing: PEFT keeps no other."""
    rank = max(factor.rank for factor in factors)
    assert metaprompt.rows_PD is not None
    products = [factor.product for factor in factors]
    stacked = {
        SHARED: metaprompt.rows_PD,
        COLS: torch.stack([pad(u_PR, (0, rank - u_PR.shape[1])) for u_PR, _ in products]),
        ROWS: torch.stack([pad(v_RD, (0, 0, 0, rank - len(v_RD))) for _, v_RD in products]),
    }
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in stacked.values()))
    return {name: tensor.to(dtype) for name, tensor in stacked.items()}


def _config(
    metaprompt: Metaprompt, packages: Sequence[Package], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    config = {
        "peft_type": MULTITASK if COLS in tensors else DENSE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": packages[0].manifest.backbone.name,
        "inference_mode": True,
        "num_virtual_tokens": metaprompt.num_positions,
        "token_dim": metaprompt.width,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    if COLS in tensors:
        num_tasks, _, rank = tensors[COLS].shape
        config |= {"num_tasks": num_tasks, "num_ranks": rank}
    return config


def _card(packages: Sequence[Package], form: Form) -> str:
    """Which task id is what, of what licence, learned under which template."""
    rows = [
        f"| {number} | {m.name} | {m.task} | {', '.join(m.labels)} | {m.licence} |"
        for number, m in enumerate(package.manifest for package in packages)
    ]
    how = "Pass `task_ids` with every call." if form == "multitask" else ""
    head = f"Soft prompts for {packages[0].manifest.backbone}, exported by Galenic. {how}".strip()
    table = ["| task id | adapter | task | labels | licence |", "|---|---|---|---|---|", *rows]
    return "\n".join(["---", "library_name: peft", "---", head, "", *table, ""])
