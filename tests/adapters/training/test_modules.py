import pytest
import torch

from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_adapters.shape import BackboneShape
from galenic_adapters.training.modules import (
    DensePrompts,
    Factors,
    ScaleFactors,
    learner_over,
    mean_factor,
    mean_of,
    ones_factor,
    ones_of,
)

P, D = 8, 16
ALL = torch.arange(2)


def random_factor(rank, seed):
    rng = torch.Generator().manual_seed(seed)
    return Factor(torch.randn(P, rank, generator=rng), torch.randn(rank, D, generator=rng))


def product(factor):
    u_PR, v_RD = factor.product
    return u_PR @ v_RD


def test_every_factor_starts_as_one():
    learner = Factors(torch.randn(P, D), ["a", "b"], 4)

    assert torch.equal(learner.shared.expand(2, P, D), learner.prompts(ALL))


def test_prompts_are_what_the_server_composes():
    learner = Factors(torch.randn(P, D), ["a", "b"], 3)
    torch.nn.init.normal_(learner.v_KRD)
    metaprompt = Metaprompt(learner.shared.detach().clone())

    for which in range(2):
        composed = compose(metaprompt, learner.factor(which)).rows_PD
        assert torch.equal(composed, learner.prompts(ALL)[which])


class TestScales:
    shape = BackboneShape(num_layers=2, width=D, attention=D, keys=4, inner=24)

    def test_begin_as_the_backbone_is(self):
        """Every scale is one, at the places that are asked for."""
        scales = ScaleFactors(self.shape, ["a", "b"], ("k", "f")).scales(ALL)

        assert {"k": (2, 2, 4), "f": (2, 2, 24)} == {p: tuple(s.shape) for p, s in scales.items()}
        assert all(torch.equal(torch.ones_like(scale), scale) for scale in scales.values())

    def test_are_what_the_server_composes(self):
        """Shared ones times each task's own, to the bit."""
        learner = ScaleFactors(self.shape, ["a", "b"])
        torch.nn.init.normal_(learner.shared)
        torch.nn.init.normal_(learner.own_KLX)
        shared = {place: one[0] for place, one in _alone(learner).items()}
        metaprompt = Metaprompt(scales=shared)

        for which in range(2):
            composed = compose(metaprompt, learner.factor(which)).scales
            for place, scale in learner.scales(ALL).items():
                assert torch.equal(scale[which], composed[place])

    def test_start_from_factors_over_a_frozen_metaprompt(self):
        """From ones they are the metaprompt's, and the mean of factors is by entry."""
        metaprompt = Metaprompt(scales={"o": torch.rand(2, D) + 0.5})
        ones = ones_of(metaprompt, 4)
        double = Factor(scales={"o": 2 * ones.scales["o"]})
        learner = learner_over(metaprompt, ["a", "b"], [ones, double], self.shape)

        assert torch.equal(metaprompt.scales["o"], learner.scales(ALL)["o"][0])
        assert not learner.shared.requires_grad
        assert torch.equal(1.5 * ones.scales["o"], mean_of([ones, double], 4).scales["o"])
        assert 2 * D == learner.num_own()


def _alone(learner):
    """The shared scales, as a factor of ones leaves them."""
    plain = ScaleFactors(TestScales.shape, ["x"])
    plain.shared.data.copy_(learner.shared)
    return plain.scales(torch.tensor([0]))


def test_what_a_task_had_can_be_put_back():
    learner = DensePrompts(torch.randn(P, D), ["a", "b"])
    kept = learner.copy_of(0)
    before = learner.rows_KPD.detach().clone()
    with torch.no_grad():
        learner.rows_KPD += 1

    learner.put_back(0, kept)

    assert torch.equal(before[0], learner.rows_KPD[0])
    assert torch.equal(before[1] + 1, learner.rows_KPD[1])


class TestMean:
    def test_of_one_factor_is_that_factor(self):
        one = random_factor(3, 0)

        torch.testing.assert_close(product(one), product(mean_factor([one], 3)))
        torch.testing.assert_close(product(one), product(mean_factor([one], 5)))

    def test_is_of_the_scales_and_as_near_as_a_rank_allows(self):
        many = [random_factor(1, seed) for seed in range(3)]
        mean = torch.stack([product(one) for one in many]).mean(0)

        torch.testing.assert_close(mean, product(mean_factor(many, 3)))
        best_of_rank_1 = torch.linalg.svdvals(mean)[1:].norm()
        error = (mean - product(mean_factor(many, 1))).norm()
        assert pytest.approx(best_of_rank_1.item(), rel=1e-4) == error.item()

    def test_of_ones_is_one(self):
        mean = mean_factor([ones_factor(P, D, 2, seed=seed) for seed in range(3)], 2)

        torch.testing.assert_close(torch.ones(P, D), product(mean))
