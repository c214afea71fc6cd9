"""
Sharing prompts, standing side by side and checkpointing change nothing but the time it takes.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Fixed, Untuned
from galenic_adapters.factor import Composed
from galenic_adapters.training.batches import Encoded, Row, collate, opened, split
from galenic_adapters.training.lora import Loras
from galenic_adapters.training.losses import losses
from galenic_adapters.training.modules import DensePrompts, Factors
from tests.support.tiny_models import tiny_gpt_oss

EXAMPLES = [Encoded((5, 6, 7), (8, 2)), Encoded((9, 10), (11, 12, 13, 2)), Encoded((4,), (2,))]
ROWS = [Row(which, one) for which, one in zip((1, 0, 1), EXAMPLES, strict=True)]


def plain_loss(backbone, prompts_KPD, rows):
    """As a textbook has it: the prompt before every example, one at a time."""
    sums = []
    for row in rows:
        ids = torch.tensor([*row.encoded.question, *row.encoded.answer])
        text_TD = backbone.model.get_input_embeddings()(ids)
        whole = torch.cat([prompts_KPD[row.which], text_TD])[None]
        logits_TV = backbone.model(inputs_embeds=whole).logits[0]
        said = logits_TV[-len(row.encoded.answer) - 1 : -1]
        answer = torch.tensor(row.encoded.answer)
        sums.append(row.weight * functional.cross_entropy(said, answer, reduction="sum"))
    return sum(sums)


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory):
    """Its window of 48 is shorter than prompt and text together, and longer than either."""
    return PromptedBackbone(tiny_gpt_oss(tmp_path_factory.mktemp("oss")), dtype=torch.float32)


def made_prompts(backbone, num_positions=8):
    start_PD = torch.randn(
        num_positions, backbone.width, generator=torch.Generator().manual_seed(0)
    )
    learner = DensePrompts(start_PD, ["a", "b"])
    with torch.no_grad():
        learner.rows_KPD[1] *= 0.5
    return learner


def made_loras(backbone, layers=()):
    """As they are when B is no longer zero, so that A has a gradient too."""
    learner = Loras(backbone.model, ["a", "b"], 2, layers=layers)
    with torch.no_grad():
        for number, p in enumerate(learner.parameters()):
            if not p.any():
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(number))
    return learner


def made_query_loras(backbone):
    """They leave the first layer's keys and values as they are."""
    return made_loras(backbone, ("q_proj",))


def with_instruction(instruction):
    return [
        Encoded((*instruction, 70 + n, *range(80, 80 + n), 99), (n, n + 1, 2)) for n in (3, 4, 7)
    ]


class TestSideBySide:
    def check(self, backbone, num_positions=8):
        learner = made_prompts(backbone, num_positions)
        ours = losses(backbone, learner, collate(ROWS)).total
        plain = plain_loss(backbone, learner.rows_KPD, ROWS)

        (mine,) = torch.autograd.grad(ours, [learner.rows_KPD])
        (other,) = torch.autograd.grad(plain, [learner.rows_KPD])

        assert pytest.approx(plain.item(), abs=1e-4) == ours.item()
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-3)

    def test_shared_prompts_change_neither_loss_nor_gradient(self, backbone):
        self.check(backbone)

    def test_nor_with_a_sliding_window(self, gpt_oss):
        self.check(gpt_oss, num_positions=47)

    @pytest.mark.parametrize("of", ["backbone", "gpt_oss"])
    def test_nor_do_prompts_computed_once_for_many_batches(self, of, request):
        backbone = request.getfixturevalue(of)
        learner = made_prompts(backbone)
        for row in ROWS:
            losses(backbone, learner, collate([row])).total.backward()
        expected, learner.rows_KPD.grad = learner.rows_KPD.grad, None

        with backbone.once(learner, torch.tensor([row.which for row in ROWS])) as tuning:
            for row in ROWS:
                losses(backbone, tuning, collate([row])).total.backward()
            assert learner.rows_KPD.grad is None

        torch.testing.assert_close(learner.rows_KPD.grad, expected, atol=1e-5, rtol=1e-3)

    @pytest.mark.parametrize("of", ["backbone", "gpt_oss"])
    @pytest.mark.parametrize("kind", ["prompts", "lora", "lora of queries"])
    def test_nor_do_instructions_that_stand_before_all_texts_of_a_task(self, of, kind, request):
        """One of 45 tokens beside one of 3: gpt-oss's window of 48 ends within the longer."""
        backbone = request.getfixturevalue(of)
        tasks = [with_instruction(range(20, 65)), with_instruction((5, 6, 7))]
        make = {"prompts": made_prompts, "lora": made_loras, "lora of queries": made_query_loras}
        learner = make[kind](backbone)
        rows = [Row(k, one) for k, many in enumerate(tasks) for one in many]
        opened_tasks = [opened(many) for many in tasks]
        shorter = [Row(k, one) for k, (_, many) in enumerate(opened_tasks) for one in many]
        openings = {k: opening for k, (opening, _) in enumerate(opened_tasks)}
        with nullcontext() if kind == "prompts" else learner.attached():
            for row in rows:
                losses(backbone, learner, collate([row])).total.backward()
            expected = {name: p.grad for name, p in learner.named_parameters()}
            learner.zero_grad(set_to_none=True)
            which_B = torch.tensor([row.which for row in shorter])
            with backbone.once(learner, which_B, openings) as tuning:
                for group in (shorter[:3], shorter[3:]):
                    losses(backbone, tuning, collate(group)).total.backward()

        assert [45, 3] == [len(opening) for opening in openings.values()]
        assert all(grad is not None and grad.any() for grad in expected.values())
        for name, p in learner.named_parameters():
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-3)

    def test_nor_does_checkpointing(self, backbone_path):
        self.check(PromptedBackbone(backbone_path, dtype=torch.float32, checkpointing=True))


def test_only_what_learns_gets_a_gradient(backbone):
    learner = Factors(torch.randn(8, backbone.width), ["a", "b"], 2)
    losses(backbone, learner, collate(ROWS)).total.backward()

    assert all(p.grad is None for p in backbone.model.parameters())
    assert all(p.grad is not None for p in learner.parameters())


def test_only_answer_positions_go_through_the_output_head(backbone):
    batch = collate(ROWS)
    seen = []
    hook = backbone.model.lm_head.register_forward_hook(lambda m, i, o: seen.append(o.shape[:-1]))
    losses(backbone, made_prompts(backbone), batch)
    hook.remove()

    assert [(sum(len(row.encoded.answer) for row in ROWS),)] == [tuple(shape) for shape in seen]


@torch.no_grad()
def test_without_a_prompt_it_is_the_bare_backbone(backbone):
    batch = collate(ROWS)

    bare = backbone.hidden(Untuned(), batch.which_B, batch.ids_BT)

    assert torch.equal(backbone.model.model(input_ids=batch.ids_BT).last_hidden_state, bare)


def test_text_and_vocabulary_give_as_many_rows_as_asked(backbone):
    sampled = backbone.embed_vocabulary(8, seed=1)

    assert (8, backbone.width) == backbone.embed_text("Be brief.", 8).shape == sampled.shape
    assert torch.equal(sampled, backbone.embed_vocabulary(8, seed=1))
    assert not torch.equal(sampled, backbone.embed_vocabulary(8, seed=2))


def test_prompts_that_stand_are_given_by_number():
    prompts = torch.randn(3, 4, 5)

    fixed = Fixed([Composed(rows_PD) for rows_PD in prompts])

    assert torch.equal(prompts[[2, 0]], fixed.prompts(torch.tensor([2, 0])))


class TestOpened:
    def test_an_opening_is_what_all_questions_begin_with(self):
        tasks = [Encoded((1, 2, 3, 4), (9,)), Encoded((1, 2, 5), (9, 9))]

        assert ((1, 2), [Encoded((3, 4), (9,)), Encoded((5,), (9, 9))]) == opened(tasks)

    def test_a_question_keeps_its_last_token(self):
        assert ((1, 2), [Encoded((3,), (9,))]) == opened([Encoded((1, 2, 3), (9,))])

    def test_of_nothing_there_is_none(self):
        assert ((), []) == opened([])


class TestSplit:
    MANY = tuple(Row(0, Encoded(tuple(range(n)), (1,))) for n in range(1, 40))

    def test_every_row_is_in_one_batch(self):
        rows = [row for group in split(self.MANY, 64) for row in group]

        assert sorted(self.MANY, key=len) == rows

    def test_none_is_larger_than_asked(self):
        assert all(collate(group).ids_BT.numel() <= 64 for group in split(self.MANY, 64))
