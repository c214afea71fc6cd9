"""
Reads PEFT checkpoints as factors that need no metaprompt.

Dimension key:  P prompt positions   D model width   L layers   W width of an activation
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from galenic_adapters.errors import BadFactor, BadInput
from galenic_adapters.factor import Factor, scale
from galenic_adapters.package.dtypes import DTYPE_NAMES
from galenic_adapters.package.file import MAX_METAPROMPT_BYTES, Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.package.peft_form import (
    COLS,
    CONFIG,
    IA3,
    LAYERS,
    MODULES,
    MULTITASK,
    PREFIX,
    ROWS,
    SHARED,
    TAKEN_IN,
    TENSORS,
    VECTOR,
    vector_shape,
)
from galenic_adapters.refs import check_name
from galenic_adapters.shape import PLACES, BackboneShape
from galenic_adapters.tasks.lookup import make_task

MAX_CONFIG_BYTES = 2**20
_SLOT = re.compile(rf"{re.escape(LAYERS)}(0|[1-9]\d{{0,3}})\.([\w.]+){re.escape(VECTOR)}")
_PLACES = {module: place for place, module in MODULES.items()}


class _Config(BaseModel):
    """Parses the fields of PEFT's configuration that matter; paths and class maps are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    peft_type: Literal[
        "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "IA3"
    ]
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    num_virtual_tokens: int | None = Field(default=None, ge=1)
    token_dim: int | None = None
    num_layers: int | None = None
    num_transformer_submodules: Literal[1] | None = None
    num_tasks: int = 1
    num_ranks: int = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Holds a checkpoint that fits a backbone of *shape*. base: the model that it names."""

    tensors: Mapping[str, Tensor]
    config: _Config
    shape: BackboneShape

    @property
    def base(self) -> str | None:
        return self.config.base_model_name_or_path

    @property
    def num_tasks(self) -> int:
        return len(self.tensors[COLS]) if COLS in self.tensors else 1

    def factor(self, task_id: int = 0) -> Factor:
        """Return the factor of a task. Raises `BadInput` if there is no such task."""
        if not 0 <= task_id < self.num_tasks:
            last = self.num_tasks - 1
            raise BadInput("task_id", f"{task_id} is not in 0 to {last}, which the checkpoint has")
        try:
            return self._made(task_id)
        except BadFactor as error:
            raise BadInput(TENSORS, str(error)) from error

    def _made(self, task_id: int) -> Factor:
        if self.config.peft_type == IA3:
            return Factor(scales=_scales(self.tensors, self.shape))
        rows_PD = self.tensors[SHARED]
        if self.config.peft_type == MULTITASK:
            pair = (self.tensors[COLS][task_id], self.tensors[ROWS][task_id])
            return Factor(rows_PD=scale(rows_PD, *pair))
        if self.config.peft_type == PREFIX:
            by_layer = rows_PD.view(len(rows_PD), self.shape.num_layers, 2, self.shape.keys)
            keys_LPW, values_LPW = by_layer.permute(2, 1, 0, 3)
            return Factor(keys_LPW=keys_LPW, values_LPW=values_LPW)
        return Factor(rows_PD=rows_PD)


def read_checkpoint(folder: Path, shape: BackboneShape) -> Checkpoint:
    """
    Read the checkpoint in *folder*, for a backbone of *shape*.

    Raises `BadInput` with the file at fault, and both values if the two disagree.
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder / TENSORS)
    if config.peft_type == IA3:
        for name, tensor in tensors.items():
            _slot(name, tensor, shape)
    else:
        _check_sizes(config, shape)
        _check_prompt(config, tensors, shape)
    return Checkpoint(tensors, config, shape)


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
    """Make a package of one task of *checkpoint*, without a metaprompt. Raises `GalenicError`."""
    made = make_task(task, labels)
    factor = checkpoint.factor(task_id)
    [dtype] = {tensor.dtype for tensor in factor.tensors.values()}
    try:
        manifest = Manifest(
            name=check_name("name", name),
            task=made.name,
            labels=made.labels,
            template_version=made.template_version,
            backbone=backbone,
            metaprompt=None,
            shapes=factor.shapes,
            dtype=DTYPE_NAMES[dtype],
            licence=licence,
            created=date.today(),
            description=f"From a PEFT checkpoint ({checkpoint.config.peft_type}, task {task_id}),"
            " learned under a template of its own: measure it with `galenic evaluate` before you"
            " trust it.",
        )
    except ValidationError as error:
        raise _bad_input(error, "manifest") from None
    return Package.write(manifest, factor)


def _read_config(path: Path) -> _Config:
    text = _read_bytes(path, MAX_CONFIG_BYTES)
    try:
        return _Config.model_validate_json(text)
    except ValidationError as error:
        raise _bad_input(error, path.name) from None


def _bad_input(error: ValidationError, field: str) -> BadInput:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step)[:64] for step in first["loc"])
    return BadInput(field, f"{where}: {first['msg']}".removeprefix(": "))


def _read_tensors(path: Path) -> dict[str, Tensor]:
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


def _check_sizes(config: _Config, shape: BackboneShape) -> None:
    """Raise `BadInput` if a size in the configuration is not the backbone's."""
    sizes = {"token_dim": shape.width}
    if config.peft_type == PREFIX:
        sizes = {"token_dim": shape.keys, "num_layers": shape.num_layers}
    for name, size in sizes.items():
        if (stated := getattr(config, name)) not in (None, size):
            kind = f"{config.peft_type} on this backbone"
            raise BadInput(CONFIG, f"{name} is {stated}, that of {kind} is {size}")


def _check_prompt(config: _Config, tensors: Mapping[str, Tensor], shape: BackboneShape) -> None:
    """Raise `BadInput` unless tensors have the names and shapes of the type and the backbone."""
    num_positions, rank, num_tasks = config.num_virtual_tokens, config.num_ranks, config.num_tasks
    shapes: dict[str, tuple[int | None, ...]] = {SHARED: (num_positions, shape.width)}
    if config.peft_type == PREFIX:
        shapes = {SHARED: (num_positions, shape.num_layers * 2 * shape.keys)}
    if config.peft_type == MULTITASK:
        shapes |= {COLS: (num_tasks, num_positions, rank), ROWS: (num_tasks, rank, shape.width)}
    if set(tensors) != set(shapes):
        there = ", ".join(sorted(tensors))[:200]
        raise BadInput(TENSORS, f"holds {there or 'nothing'}, not {', '.join(sorted(shapes))}")
    for name, expected in shapes.items():
        if (found := tuple(tensors[name].shape)) != expected:
            raise BadInput(
                TENSORS, f"{name} has shape {found}, {CONFIG} and the backbone say {expected}"
            )


def _scales(tensors: Mapping[str, Tensor], shape: BackboneShape) -> dict[str, Tensor]:
    """Collect IA3's vectors by place (L, W); layers without a vector get ones."""
    made: dict[str, Tensor] = {}
    for name, vector in tensors.items():
        place, layer = _slot(name, vector, shape)
        if place not in made:
            made[place] = vector.new_ones(shape.num_layers, shape.scale_width(place))
        made[place][layer] = vector.flatten()
    return {place: made[place] for place in PLACES if place in made}


def _slot(name: str, vector: Tensor, shape: BackboneShape) -> tuple[str, int]:
    """Return place and layer of one of IA3's vectors; raises `BadInput` if it has none."""
    found = _SLOT.fullmatch(name)
    if not found or found[2] not in _PLACES:
        modules = ", ".join(_PLACES)
        raise BadInput(TENSORS, f"{name[:120]!r} is no vector of a layer's {modules}")
    layer, place = int(found[1]), _PLACES[found[2]]
    if layer >= shape.num_layers:
        raise BadInput(TENSORS, f"{name} is of layer {layer}, the backbone has {shape.num_layers}")
    expected = vector_shape(place, shape.scale_width(place))
    if (size := tuple(vector.shape)) != expected:
        end = "takes in" if place in TAKEN_IN else "puts out"
        raise BadInput(
            TENSORS, f"{name} has shape {size}, {expected} would scale what {found[2]} {end}"
        )
    return place, layer
