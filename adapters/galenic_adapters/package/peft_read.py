"""
PEFT checkpoints read into our own form.

Dimension key:  P prompt positions   D model width   R rank
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from galenic_adapters.errors import BadFactor, BadInput
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.dtypes import DTYPE_NAMES
from galenic_adapters.package.file import MAX_METAPROMPT_BYTES, Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.package.peft_form import (
    COLS,
    CONFIG,
    DENSE,
    MULTITASK,
    ROWS,
    SHARED,
    TENSORS,
)
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.lookup import make_task

MAX_CONFIG_BYTES = 2**20
NAMES = {DENSE: {SHARED}, MULTITASK: {SHARED, COLS, ROWS}}


class _Config(BaseModel):
    """What is read of PEFT's configuration; its paths, names and class maps are not looked at."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    peft_type: Literal["MULTITASK_PROMPT_TUNING", "PROMPT_TUNING"]
    task_type: Literal["CAUSAL_LM"] | None = None
    num_virtual_tokens: int = Field(ge=1)
    token_dim: int | None = None
    num_transformer_submodules: Literal[1] | None = None
    num_tasks: int = 1
    num_ranks: int = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A metaprompt, and the factors over it by PEFT's task id."""

    metaprompt: Metaprompt
    factors: tuple[Factor, ...]

    def factor(self, task_id: int) -> Factor:
        """Raises `BadInput` where there is no such task."""
        if not 0 <= task_id < len(self.factors):
            last = len(self.factors) - 1
            raise BadInput("task_id", f"{task_id} is not in 0 to {last}, which the checkpoint has")
        return self.factors[task_id]


def read_checkpoint(folder: Path) -> Checkpoint:
    """The soft prompts in *folder*. Raises `BadInput` with the file at fault."""
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder / TENSORS, NAMES[config.peft_type])
    _check_shapes(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    try:
        metaprompt = Metaprompt(tensors[SHARED])
        if config.peft_type == DENSE:
            return Checkpoint(metaprompt, (_one(metaprompt),))
        pairs = zip(tensors[COLS], tensors[ROWS], strict=True)
        factors = tuple(Factor(u_PR.clone(), v_RD.clone()) for u_PR, v_RD in pairs)
        return Checkpoint(metaprompt, factors)
    except BadFactor as error:
        raise BadInput(TENSORS, str(error)) from error


def import_adapter(
    checkpoint: Checkpoint,
    task_id: int = 0,
    *,
    name: str,
    task: str,
    labels: Sequence[str] = (),
    backbone: BackboneId,
    licence: str = "not stated",
) -> Package:
    """One task of *checkpoint* as an adapter over its metaprompt. Raises `GalenicError`."""
    made = make_task(task, labels)
    factor = checkpoint.factor(task_id)
    try:
        manifest = Manifest(
            name=check_name("name", name),
            task=made.name,
            labels=made.labels,
            template_version=made.template_version,
            backbone=backbone,
            metaprompt=checkpoint.metaprompt.digest,
            rank=factor.rank,
            positions=checkpoint.metaprompt.num_positions,
            width=checkpoint.metaprompt.width,
            dtype=DTYPE_NAMES[factor.u_PR.dtype],
            licence=licence,
            created=date.today(),
            description=f"Task {task_id} of a PEFT checkpoint, learned under a template of its own:"
            " measure it with `galenic evaluate` before you trust it.",
        )
    except ValidationError as error:
        raise _told(error, "manifest") from None
    return Package.write(manifest, factor)


def _one(metaprompt: Metaprompt) -> Factor:
    """The factor that changes nothing."""
    rows_PD = metaprompt.rows_PD
    return Factor(
        rows_PD.new_ones(metaprompt.num_positions, 1), rows_PD.new_ones(1, metaprompt.width)
    )


def _read_config(path: Path) -> _Config:
    text = _read_bytes(path, MAX_CONFIG_BYTES)
    try:
        return _Config.model_validate_json(text)
    except ValidationError as error:
        raise _told(error, path.name) from None


def _told(error: ValidationError, field: str) -> BadInput:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step)[:64] for step in first["loc"])
    return BadInput(field, f"{where}: {first['msg']}".removeprefix(": "))


def _read_tensors(path: Path, names: set[str]) -> dict[str, Tensor]:
    if not path.exists() and (pickled := sorted(path.parent.glob("adapter_model.*"))):
        raise BadInput(
            pickled[0].name,
            "is a pickle, which could run code, and was not opened; save as safetensors",
        )
    data = _read_bytes(path, MAX_METAPROMPT_BYTES)
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, KeyError) as error:  # a type that torch does not have is a KeyError
        raise BadInput(path.name, f"is not safetensors: {str(error)[:200]}") from error
    if set(tensors) != names:
        there = ", ".join(sorted(tensors))[:200]
        raise BadInput(path.name, f"holds {there or 'nothing'}, not {', '.join(sorted(names))}")
    types = {tensor.dtype for tensor in tensors.values()}
    if len(types) > 1 or not types <= set(DTYPE_NAMES):
        raise BadInput(path.name, f"holds {', '.join(map(str, types))}, not floats of one kind")
    return tensors


def _read_bytes(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise BadInput(path.name, f"{size} bytes, at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(path.name, f"cannot be read: {error.strerror or error}") from error


def _check_shapes(config: _Config, shapes: dict[str, tuple[int, ...]]) -> None:
    """`BadInput` unless the tensors have the shapes that the configuration says."""
    found = shapes[SHARED]
    num_positions, width = config.num_virtual_tokens, config.token_dim or (found or (0,))[-1]
    rank, num_tasks = config.num_ranks, config.num_tasks
    said = {
        SHARED: (num_positions, width),
        COLS: (num_tasks, num_positions, rank),
        ROWS: (num_tasks, rank, width),
    }
    for name, shape in said.items():
        if name in shapes and shapes[name] != shape:
            raise BadInput(TENSORS, f"{name} has shape {shapes[name]}, {CONFIG} says {shape}")
