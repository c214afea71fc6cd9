"""
Small adapters for tests, each as distinct as its seed.

Dimension key:  P prompt positions   D model width   R rank
"""

from datetime import date
from typing import Any

import torch

from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.shape import BackboneShape
from galenic_adapters.tasks.base import TaskName

P, D = 4, 8
BACKBONE = BackboneId(name="Tiny-Instruct", revision="0a1b2c3d4e5f")


def make_metaprompt(seed: int = 0) -> Metaprompt:
    return Metaprompt(torch.randn(P, D, generator=torch.Generator().manual_seed(seed)))


def make_factor(seed: int = 0, rank: int = 1, dtype: torch.dtype = torch.float32) -> Factor:
    source = torch.Generator().manual_seed(seed)
    u_PR = torch.randn(P, rank, generator=source)
    v_RD = torch.randn(rank, D, generator=source)
    return Factor(u_PR.to(dtype), v_RD.to(dtype))


def make_manifest(**changes: Any) -> Manifest:
    fields = {
        "name": "diseases",
        "task": TaskName.NER,
        "labels": ("Disease",),
        "template_version": 1,
        "backbone": BACKBONE,
        "metaprompt": make_metaprompt().digest,
        "shapes": {"u": (P, 1), "v": (1, D)},
        "dtype": "float32",
        "licence": "CC0-1.0",
        "created": date(2026, 1, 31),
    }
    return Manifest(**(fields | changes))


def make_package(seed: int = 0, *, rank: int = 1, **changes: Any) -> Package:
    shapes = {"u": (P, rank), "v": (rank, D)}
    return Package.write(make_manifest(shapes=shapes, **changes), make_factor(seed, rank))


SHAPE = BackboneShape(num_layers=2, width=D, attention=D, keys=D // 2, inner=2 * D)


def make_fit(**changes: Any) -> Fit:
    """What a server has, that the packages made here fit."""
    metaprompt = make_metaprompt()
    fields = {"backbone": BACKBONE, "metaprompts": {metaprompt.digest: metaprompt}, "shape": SHAPE}
    return Fit(**(fields | changes))
