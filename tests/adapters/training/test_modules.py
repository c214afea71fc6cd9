import pytest
import torch

from galenic_adapters.factor import Factor, compose
from galenic_adapters.training.modules import (
    DensePrompts,
    Factors,
    mean_factor,
    ones_factor,
)

P, D = 8, 16
ALL = torch.arange(2)


def random_factor(rank, seed):
    rng = torch.Generator().manual_seed(seed)
    return Factor(torch.randn(P, rank, generator=rng), torch.randn(rank, D, generator=rng))


def product(factor):
    return factor.u_PR @ factor.v_RD


def test_every_factor_starts_as_one():
    learner = Factors(torch.randn(P, D), ["a", "b"], 4)

    assert torch.equal(learner.shared.expand(2, P, D), learner.prompts(ALL))


def test_prompts_are_what_the_server_composes():
    learner = Factors(torch.randn(P, D), ["a", "b"], 3)
    torch.nn.init.normal_(learner.v_KRD)
    metaprompt = learner.metaprompt(torch.float32)

    for which in range(2):
        composed = compose(metaprompt, learner.factor(which))
        assert torch.equal(composed, learner.prompts(ALL)[which])


def test_the_additive_kind_starts_as_the_plain_one_and_learns_more():
    meta_PD = torch.randn(P, D)
    meta_PD[:, 0] = 0  # where the product has nothing to scale
    learner = Factors(meta_PD, ["a", "b"], 2, additive=True)
    assert torch.equal(meta_PD.expand(2, P, D), learner.prompts(ALL))

    learner.prompts(ALL).sum().backward()

    assert 0 == learner.v_KRD.grad[..., 0].abs().max() < learner.b_KRD.grad[..., 0].abs().min()
    assert 2 * 2 * (P + D) == learner.num_own()


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
