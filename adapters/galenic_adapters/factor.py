"""
An adapter's factor, the metaprompt that adapters share, and their composition.

A factor has one form or several:

    input    vectors before the text: a low-rank product u v that scales the metaprompt's rows,
             or rows of its own
    deep     keys and values before the text, in every layer
    scales   multiply activations of text tokens in every layer: queries (q) and keys (k) before
             they are rotated, values (v), the attention's output (o), the feed-forward's inner
             activations (f)

Dimension key:  P prompt positions   D model width   R rank   L layers   W width of an activation
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from typing import Any, Self

from safetensors.torch import save
from torch import Tensor

from galenic_adapters.errors import BadFactor
from galenic_adapters.shape import PLACES, SCALE_PREFIX

METAPROMPT_ROWS = "metaprompt"
"""The name of P* among a metaprompt's tensors."""


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return ``sha256:`` and the hash of the tensors' canonical safetensors bytes."""
    canonical = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


@dataclass(frozen=True, eq=False)
class Metaprompt:
    """
    Holds what all adapters of a backbone share; it is named by its digest.

    rows_PD: the soft prompt P*.   scales: (L, W) by place, of every layer's activations. At least
    one of the two is present.
    """

    rows_PD: Tensor | None = None
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise BadFactor("a metaprompt needs rows, scales or both")
        if self.rows_PD is not None and self.rows_PD.ndim != 2:
            raise BadFactor(f"expected a metaprompt matrix, got shape {tuple(self.rows_PD.shape)}")
        _check_scales(self.scales)
        if not all(tensor.isfinite().all() for tensor in self.tensors.values()):
            raise BadFactor("metaprompt holds NaN or infinity")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build a metaprompt from tensors with the names that `tensors` gives them."""
        return cls(tensors.get(METAPROMPT_ROWS), _scales_among(tensors))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name: ``metaprompt`` for P*, ``scales.o`` and so on for scales."""
        rows = {} if self.rows_PD is None else {METAPROMPT_ROWS: self.rows_PD}
        return rows | _named_scales(self.scales)

    @property
    def num_positions(self) -> int:
        """Return P, or 0 if the metaprompt has no rows."""
        return 0 if self.rows_PD is None else self.rows_PD.shape[0]

    @property
    def width(self) -> int:
        """Return D, or 0 if the metaprompt has no rows."""
        return 0 if self.rows_PD is None else self.rows_PD.shape[1]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.tensors)


@dataclass(frozen=True, eq=False)
class Factor:
    """
    Holds a task's own tensors, in one form or several.

    u_PR, v_RD: a low-rank scale of the metaprompt's rows.   rows_PD: a prompt of its own.
    keys_LPW, values_LPW: a deep prompt; keys are rotated for the positions 0 to P - 1.
    scales: (L, W) by place; they multiply the metaprompt's scales, if it has any there.
    """

    u_PR: Tensor | None = None
    v_RD: Tensor | None = None
    rows_PD: Tensor | None = None
    keys_LPW: Tensor | None = None
    values_LPW: Tensor | None = None
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise BadFactor("a factor needs a tensor of at least one form")
        if empty := [name for name, tensor in self.tensors.items() if 0 in tensor.shape]:
            raise BadFactor(f"a dimension is zero in {_shapes(self.tensors, empty)}")
        self._check_input()
        self._check_deep()
        _check_scales(self.scales)
        if not all(tensor.isfinite().all() for tensor in self.tensors.values()):
            raise BadFactor("factor holds NaN or infinity")

    def _check_input(self) -> None:
        if (self.u_PR is None) != (self.v_RD is None):
            raise BadFactor("a product needs both u and v")
        if self.rows_PD is not None and (self.rows_PD.ndim != 2 or self.u_PR is not None):
            raise BadFactor("rows are one matrix, without u and v beside them")
        if self.u_PR is None or self.v_RD is None:
            return
        shapes = _shapes(self.tensors, ["u", "v"])
        if self.u_PR.ndim != 2 or self.v_RD.ndim != 2:
            raise BadFactor(f"expected two matrices, got {shapes}")
        if self.u_PR.shape[1] != self.v_RD.shape[0]:
            raise BadFactor(f"ranks disagree in {shapes}")

    def _check_deep(self) -> None:
        if (self.keys_LPW is None) != (self.values_LPW is None):
            raise BadFactor("a deep prompt needs both keys and values")
        if self.keys_LPW is None or self.values_LPW is None:
            return
        shapes = _shapes(self.tensors, ["keys", "values"])
        if self.keys_LPW.ndim != 3 or self.keys_LPW.shape != self.values_LPW.shape:
            raise BadFactor(f"keys and values must be (layers, positions, width), got {shapes}")
        if self.u_PR is not None or self.rows_PD is not None:
            raise BadFactor("a prompt is either rows at the input or deep, not both")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build a factor from tensors with the names that `tensors` gives them."""
        return cls(
            u_PR=tensors.get("u"),
            v_RD=tensors.get("v"),
            rows_PD=tensors.get("rows"),
            keys_LPW=tensors.get("keys"),
            values_LPW=tensors.get("values"),
            scales=_scales_among(tensors),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name: u, v, rows, keys, values, ``scales.o`` and so on."""
        named = {
            "u": self.u_PR,
            "v": self.v_RD,
            "rows": self.rows_PD,
            "keys": self.keys_LPW,
            "values": self.values_LPW,
        }
        there = {name: tensor for name, tensor in named.items() if tensor is not None}
        return there | _named_scales(self.scales)

    @property
    def shapes(self) -> dict[Any, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def product(self) -> tuple[Tensor, Tensor]:
        """Return u (P, R) and v (R, D). Raises `BadFactor` if the factor is not a product."""
        if self.u_PR is None or self.v_RD is None:
            raise BadFactor(f"expected a product u v, got {', '.join(self.tensors)}")
        return self.u_PR, self.v_RD

    @property
    def rank(self) -> int:
        """Return R of the product at the input, or 0 if there is none."""
        return 0 if self.u_PR is None else self.u_PR.shape[1]

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True, eq=False)
class Composed:
    """
    Holds an adapter in the form that an engine applies; an absent part changes nothing.

    rows_PD: vectors before the text.   prefix: keys and values (L, P, W) before the text.
    scales: (L, W) by place; they act on text tokens only.
    """

    rows_PD: Tensor | None = None
    prefix: tuple[Tensor, Tensor] | None = None
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_PD is not None and self.prefix is not None:
            raise BadFactor("an adapter has rows or a prefix, not both")
        _check_scales(self.scales)
        ndim = 2 if self.rows_PD is not None else 3
        for name, tensor in self.prompt.items():
            if tensor.ndim != ndim:
                shape = tuple(tensor.shape)
                raise BadFactor(
                    f"the prompt's {name} is of shape {shape}, not of {ndim} dimensions"
                )
        for name, tensor in self.tensors.items():
            if not tensor.isfinite().all():
                raise BadFactor(f"{name} holds NaN or infinity")

    @property
    def prompt(self) -> dict[str, Tensor]:
        """Return the prompt's tensors by name: none, ``rows``, or ``keys`` and ``values``."""
        if self.rows_PD is not None:
            return {"rows": self.rows_PD}
        return dict(zip(("keys", "values"), self.prefix or (), strict=False))

    @cached_property
    def prompt_digest(self) -> str:
        """Return the digest of the prompt; adapters with the same prompt share it."""
        return digest_of(self.prompt)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.prompt | _named_scales(self.scales)

    @property
    def num_positions(self) -> int:
        """Return the number of prompt positions before the text."""
        return next((tensor.shape[-2] for tensor in self.prompt.values()), 0)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


def scale(meta_PD: Tensor, u_PR: Tensor, v_RD: Tensor) -> Tensor:
    """
    Compute ``P* ∘ (u v)`` (P, D) in float32, differentiably (arXiv 2303.02861, eq. 2, any rank).

    Leading dimensions broadcast: u (B, P, R) and v (B, R, D) give (B, P, D). The sum over R runs in
    order, without ``@``, whose bits depend on the batch size.
    """
    u_PR, v_RD = u_PR.float(), v_RD.float()
    ranks = range(u_PR.shape[-1])
    return meta_PD.float() * reduce(
        add, (u_PR[..., r, None] * v_RD[..., r, None, :] for r in ranks)
    )


def compose(metaprompt: Metaprompt | None, factor: Factor) -> Composed:
    """
    Compose *factor* with the metaprompt: rows in the metaprompt's dtype, scales in float32.

    Products are computed in float32 and cast once. Raises `BadFactor` if a part needs a metaprompt
    and there is none, or if shapes disagree.
    """
    shared = metaprompt.scales if metaprompt else {}
    prefix = None
    if factor.keys_LPW is not None and factor.values_LPW is not None:
        prefix = (factor.keys_LPW, factor.values_LPW)
    return Composed(
        None if prefix else _composed_rows(metaprompt, factor),
        prefix,
        {
            place: _composed_scale(place, shared.get(place), factor.scales.get(place))
            for place in PLACES
            if place in shared or place in factor.scales
        },
    )


def _composed_rows(metaprompt: Metaprompt | None, factor: Factor) -> Tensor | None:
    meta_PD = metaprompt.rows_PD if metaprompt else None
    if factor.rows_PD is not None:
        return factor.rows_PD
    if factor.u_PR is None or factor.v_RD is None:
        return meta_PD
    made = (factor.u_PR.shape[0], factor.v_RD.shape[1])
    if meta_PD is None:
        raise BadFactor(f"factor of {made} scales a metaprompt's rows, and there are none")
    if made != tuple(meta_PD.shape):
        raise BadFactor(f"factor of {made} does not fit metaprompt {tuple(meta_PD.shape)}")
    return scale(meta_PD, factor.u_PR, factor.v_RD).to(meta_PD.dtype)


def _composed_scale(place: str, shared_LW: Tensor | None, own_LW: Tensor | None) -> Tensor:
    if shared_LW is None or own_LW is None:
        alone_LW = own_LW if shared_LW is None else shared_LW
        assert alone_LW is not None, "one of the two has this place"
        return alone_LW
    if shared_LW.shape != own_LW.shape:
        found = f"{tuple(own_LW.shape)} does not fit metaprompt {tuple(shared_LW.shape)}"
        raise BadFactor(f"scales.{place} of {found}")
    return shared_LW.float() * own_LW.float()


def _scales_among(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(SCALE_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(SCALE_PREFIX)
    }


def _named_scales(scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {SCALE_PREFIX + place: tensor_LW for place, tensor_LW in scales.items()}


def _check_scales(scales: Mapping[str, Tensor]) -> None:
    if unknown := set(scales) - set(PLACES):
        raise BadFactor(f"no such place to scale: {', '.join(sorted(unknown))[:80]}")
    named = _named_scales(scales)
    if any(tensor.ndim != 2 for tensor in scales.values()):
        raise BadFactor(f"scales must be (layers, width), got {_shapes(named, named)}")
    if len({tensor.shape[0] for tensor in scales.values()}) > 1:
        raise BadFactor(f"scales disagree about the number of layers: {_shapes(named, named)}")


def _shapes(tensors: Mapping[str, Tensor], names: "Mapping[str, Tensor] | list[str]") -> str:
    return ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in names)
