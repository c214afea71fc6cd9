import pytest
import torch
from torch.nn import functional

from galenic_adapters.training.batches import Encoded, batches, collate
from galenic_adapters.training.student import Student

EXAMPLES = [Encoded((5, 6, 7), (8, 2)), Encoded((9, 10), (11, 12, 13, 2)), Encoded((4,), (2,))]


def plain_loss(backbone, prompt_PD, encoded):
    """As a textbook has it: the prompt before every example, one at a time."""
    losses = []
    for one in encoded:
        ids = torch.tensor([*one.question, *one.answer])
        text_TD = backbone.model.get_input_embeddings()(ids)
        logits_TV = backbone.model(inputs_embeds=torch.cat([prompt_PD, text_TD])[None]).logits[0]
        said = logits_TV[-len(one.answer) - 1 : -1]
        losses.append(functional.cross_entropy(said, torch.tensor(one.answer), reduction="sum"))
    return sum(losses) / sum(len(one.answer) for one in encoded)


def test_sharing_the_prompt_changes_neither_loss_nor_gradient(backbone):
    student = Student(torch.randn(8, backbone.width), ["a"], 2, seed=0)
    shared = backbone.loss(student.prompt("a"), collate(EXAMPLES))
    plain = plain_loss(backbone, student.prompt("a"), EXAMPLES)

    parameters = [student.meta_PD, student.u["a"], student.v["a"]]
    ours = torch.autograd.grad(shared, parameters)
    theirs = torch.autograd.grad(plain, parameters)

    assert pytest.approx(plain.item(), abs=1e-5) == shared.item()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_only_the_prompt_learns(backbone):
    student = Student(torch.randn(8, backbone.width), ["a"], 2, seed=0)
    backbone.loss(student.prompt("a"), collate(EXAMPLES)).backward()

    assert all(p.grad is None for p in backbone.model.parameters())


def test_a_factor_starts_as_one():
    student = Student(torch.randn(8, 16), ["a"], 4, seed=0)

    assert torch.equal(student.meta_PD, student.prompt("a"))


class TestBatches:
    MANY = tuple(Encoded(tuple(range(n)), (1,)) for n in range(1, 40))

    def test_an_epoch_holds_every_example_once(self):
        stream = batches(self.MANY, 64, seed="0")
        seen = []
        while len(seen) < len(self.MANY):
            seen += next(stream)

        assert sorted(map(len, self.MANY)) == sorted(map(len, seen))

    def test_none_is_larger_than_asked(self):
        stream = batches(self.MANY, 64, seed="0")

        assert all(collate(next(stream)).ids_BT.numel() <= 64 for _ in range(100))

    def test_the_order_depends_on_the_seed_alone(self):
        def first(seed):
            return [
                batch for _, batch in zip(range(5), batches(self.MANY, 64, seed=seed), strict=False)
            ]

        assert first("0") == first("0")
        assert first("0") != first("1")
