"""
Dimension key:  P prompt positions   D model width   R rank   B examples side by side
"""

import hashlib
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galenic_adapters.errors import BadFactor
from galenic_adapters.factor import Factor, Metaprompt, compose, digest_of, scale
from galenic_adapters.package.file import write_metaprompt

P, D = 5, 12


def random_factor(rank: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Factor:
    source = torch.Generator().manual_seed(seed)
    u_PR = torch.randn(P, rank, generator=source)
    v_RD = torch.randn(rank, D, generator=source)
    return Factor(u_PR.to(dtype), v_RD.to(dtype))


def random_metaprompt(seed: int = 0, dtype: torch.dtype = torch.float32) -> Metaprompt:
    rows_PD = torch.randn(P, D, generator=torch.Generator().manual_seed(seed))
    return Metaprompt(rows_PD.to(dtype))


def rows(metaprompt: Metaprompt, factor: Factor) -> torch.Tensor:
    """The prompt that the two make."""
    made = compose(metaprompt, factor).rows_PD
    assert made is not None
    return made


class TestFactor:
    @pytest.mark.parametrize(
        ("u", "v", "problem"),
        [
            ((P,), (1, D), "two matrices"),
            ((P, 1), (1, D, 1), "two matrices"),
            ((P, 2), (3, D), "ranks disagree"),
            ((P, 0), (0, D), "zero"),
            ((0, 1), (1, D), "zero"),
            ((P, 1), (1, 0), "zero"),
        ],
    )
    def test_shapes_that_are_no_factor(self, u: tuple[int], v: tuple[int], problem: str) -> None:
        with pytest.raises(BadFactor, match=problem):
            Factor(torch.ones(u), torch.ones(v))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_no_numbers(self, value: float) -> None:
        for u, v in ((value, 1.0), (1.0, value)):
            with pytest.raises(BadFactor, match="NaN or infinity"):
                Factor(torch.full((P, 1), u), torch.full((1, D), v))

    @pytest.mark.parametrize("rank", [1, 4, 16])
    def test_counts(self, rank: int) -> None:
        assert rank == random_factor(rank).rank
        assert rank * (P + D) == random_factor(rank).num_parameters


class TestMetaprompt:
    def test_must_be_a_finite_matrix(self) -> None:
        with pytest.raises(BadFactor, match="matrix"):
            Metaprompt(torch.ones(3))
        with pytest.raises(BadFactor, match="NaN or infinity"):
            Metaprompt(torch.tensor([[float("nan")]]))

    def test_digest_names_the_values(self) -> None:
        """The same rows have one digest wherever they came from; one bit more has another."""
        rows_PD = random_metaprompt().rows_PD
        column_major_PD = rows_PD.T.contiguous().T
        nudged_PD = rows_PD.clone()
        nudged_PD[0, 0] = torch.nextafter(nudged_PD[0, 0], torch.tensor(9.0))

        assert Metaprompt(rows_PD).digest == Metaprompt(column_major_PD).digest
        assert Metaprompt(rows_PD).digest != Metaprompt(nudged_PD).digest
        assert Metaprompt(rows_PD).digest != Metaprompt(rows_PD.bfloat16()).digest

    def test_digest_never_changes(self) -> None:
        """Manifests name metaprompts by it, so this very value has to hold in every release."""
        rows_PD = torch.arange(6, dtype=torch.float32).reshape(2, 3)
        expected = "sha256:a16fe676217685c4d19c1394b8f8e03b9c10d0fe4cab581e59b2cbf09701cf3d"
        assert expected == Metaprompt(rows_PD).digest

    def test_digest_is_that_of_its_file(self) -> None:
        """``sha256sum metaprompt.safetensors`` tells which metaprompt it is."""
        metaprompt = random_metaprompt()
        data = write_metaprompt(metaprompt)
        assert "sha256:" + hashlib.sha256(data).hexdigest() == metaprompt.digest

    def test_digest_ignores_the_order_of_tensors(self) -> None:
        one, other = torch.ones(1), torch.zeros(2)
        assert digest_of({"a": one, "b": other}) == digest_of({"b": other, "a": one})


class TestCompose:
    @settings(deadline=None)
    @given(rank=st.integers(1, 16), seed=st.integers(0, 999))
    def test_is_the_elementwise_product(self, rank: int, seed: int) -> None:
        """P* ∘ Σ_r u_r ⊗ v_r, at any rank."""
        metaprompt, factor = random_metaprompt(seed), random_factor(rank, seed)
        expected_PD = metaprompt.rows_PD.double() * sum(
            torch.outer(factor.u_PR[:, r].double(), factor.v_RD[r].double()) for r in range(rank)
        )
        torch.testing.assert_close(
            rows(metaprompt, factor).double(), expected_PD, rtol=1e-5, atol=1e-5
        )

    @pytest.mark.parametrize("rank", [1, 4, 16])
    @pytest.mark.parametrize("num_examples", [1, 3, 8])
    def test_training_and_serving_make_the_same_bits(self, rank: int, num_examples: int) -> None:
        """Training scales a batch of factors, serving composes one: not a bit lies between them."""
        metaprompt = random_metaprompt()
        factors = [random_factor(rank, seed) for seed in range(num_examples)]
        u_BPR = torch.stack([f.u_PR for f in factors]).requires_grad_()
        v_BRD = torch.stack([f.v_RD for f in factors]).requires_grad_()

        trained_BPD = scale(metaprompt.rows_PD, u_BPR, v_BRD)

        for trained_PD, factor in zip(trained_BPD, factors, strict=True):
            assert torch.equal(trained_PD, rows(metaprompt, factor))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_rounds_once(self, dtype: torch.dtype) -> None:
        """Composed in float32 and cast to the metaprompt's dtype at the very end."""
        metaprompt, factor = random_metaprompt(dtype=dtype), random_factor(4, dtype=dtype)
        exact_PD = scale(metaprompt.rows_PD, factor.u_PR, factor.v_RD)

        assert torch.float32 == exact_PD.dtype
        assert torch.equal(exact_PD.to(dtype), rows(metaprompt, factor))

    def test_the_unit_factor_changes_nothing(self) -> None:
        metaprompt = random_metaprompt()
        unit = Factor(torch.ones(P, 1), torch.ones(1, D))
        assert torch.equal(metaprompt.rows_PD, rows(metaprompt, unit))

    def test_learns(self) -> None:
        """Gradients reach both halves of the factor, and the metaprompt."""
        parts = [t.clone().requires_grad_() for t in (torch.ones(P, D), torch.ones(P, 2))]
        v_RD = torch.ones(2, D, requires_grad=True)
        scale(*parts, v_RD).sum().backward()
        assert all(part.grad is not None for part in (*parts, v_RD))

    @pytest.mark.parametrize(("positions", "width"), [(P + 1, D), (P, D + 1), (1, D), (P, 1)])
    def test_refuses_another_metaprompts_factor(self, positions: int, width: int) -> None:
        """Nothing is broadcast: a factor of one row or column is not stretched to fit."""
        with pytest.raises(BadFactor, match="does not fit"):
            compose(random_metaprompt(), Factor(torch.ones(positions, 1), torch.ones(1, width)))

    def test_scales_multiply_the_metaprompts(self) -> None:
        """Where only one of the two has a place, it is taken as it is."""
        shared, own = torch.rand(2, 6) + 0.5, torch.rand(2, 6) + 0.5
        metaprompt = Metaprompt(scales={"o": shared, "f": shared[:, :3]})
        made = compose(metaprompt, Factor(scales={"o": own})).scales

        assert torch.equal(shared * own, made["o"])
        assert torch.equal(shared[:, :3], made["f"])

    def test_a_factor_that_stands_alone_needs_no_metaprompt(self) -> None:
        own, keys = torch.rand(2, 6), torch.rand(2, 4, 6)

        assert torch.equal(own, compose(None, Factor(scales={"o": own})).scales["o"])
        assert torch.equal(own, compose(None, Factor(rows_PD=own)).rows_PD)
        assert 4 == compose(None, Factor(keys_LPW=keys, values_LPW=keys)).num_positions

    def test_a_product_without_rows_to_scale_is_refused(self) -> None:
        with pytest.raises(BadFactor, match="there are none"):
            compose(Metaprompt(scales={"o": torch.ones(2, 3)}), random_factor(1))


class TestForms:
    @pytest.mark.parametrize(
        ("parts", "problem"),
        [
            ({}, "at least one form"),
            ({"u_PR": torch.ones(2, 1)}, "both u and v"),
            ({"keys_LPW": torch.ones(1, 2, 3)}, "both keys and values"),
            ({"scales": {"x": torch.ones(1, 2)}}, "no such place"),
            ({"scales": {"o": torch.ones(2)}}, "must be (layers, width)"),
            ({"scales": {"o": torch.ones(1, 2), "f": torch.ones(2, 2)}}, "number of layers"),
            ({"scales": {"o": torch.tensor([[float("inf")]])}}, "NaN or infinity"),
        ],
    )
    def test_parts_that_make_no_factor(self, parts: dict[str, Any], problem: str) -> None:
        with pytest.raises(BadFactor, match=re.escape(problem)):
            Factor(**parts)
