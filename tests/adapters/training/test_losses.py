from dataclasses import replace

import pytest
import torch

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.training.batches import Encoded, Row, collate, opened
from galenic_adapters.training.losses import Teaching, distance_of, kl_of, losses
from galenic_adapters.training.modules import DensePrompts, ScaleFactors
from galenic_adapters.training.recipe import Distillation

ROWS = [Row(0, Encoded((5, 6, 7), (8, 2)), 0.5), Row(0, Encoded((9,), (11, 2)), 2.0)]


@pytest.fixture
def teacher_and_student(backbone):
    rng = torch.Generator().manual_seed(0)
    starts = [torch.randn(8, backbone.width, generator=rng) for _ in range(2)]
    teacher, student = (DensePrompts(start, ["a"]) for start in starts)
    return teacher.requires_grad_(False), student


def test_kl_is_the_definition_scaled_by_the_squared_temperature():
    teacher, student = torch.randn(2, 3, 7).unbind()
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)

    torch.testing.assert_close(4 * (p * (p / q).log()).sum(-1), kl_of(teacher, student, 2.0))


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it():
    same = torch.randn(3, 7)

    assert 0 == kl_of(same, same, 2.0).abs().max() == distance_of(same, same).max()


def test_weights_of_the_recipe_add_up(backbone, teacher_and_student):
    """The parts alone, by their weights, are the whole; the data's part needs no teacher."""
    teacher, student = teacher_and_student
    batch = collate(ROWS)

    def total(task, kl, hidden):
        teaching = Teaching(teacher, Distillation(task=task, kl=kl, hidden=hidden))
        return losses(backbone, student, batch, teaching).total.item()

    parts = total(1, 0, 0), total(0, 1, 0), total(0, 0, 1)

    assert pytest.approx(parts[0] + 2 * parts[1] + 3 * parts[2], rel=1e-5) == total(1, 2, 3)
    assert pytest.approx(losses(backbone, student, batch).total.item()) == parts[0]
    assert min(parts) > 0


def test_a_teacher_whose_prompt_ran_already_says_the_same(backbone, teacher_and_student):
    teacher, student = teacher_and_student
    teaching = Teaching(teacher, Distillation())
    opening, rest = opened([Encoded((5, 6, 7, 8), (8, 2)), Encoded((5, 6, 9), (11, 2))])
    whole = collate([Row(0, replace(one, question=(*opening, *one.question))) for one in rest])
    short = collate([Row(0, one) for one in rest])

    expected = losses(backbone, student, whole, teaching).total.item()
    taught = teaching.ahead(backbone, short.which_B, {0: opening})
    with backbone.once(student, short.which_B, {0: opening}) as tuning:
        total = losses(backbone, tuning, short, taught).total
        total.backward()

    assert pytest.approx(expected, rel=1e-5) == total.item()


def test_a_student_comes_to_its_teacher_by_its_word_alone(backbone, teacher_and_student):
    teacher, student = teacher_and_student
    batch = collate(ROWS)
    teaching = Teaching(teacher, Distillation(task=0.0))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    seen = []
    for _ in range(40):
        total = losses(backbone, student, batch, teaching).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(total.item())

    assert seen[-1] < 0.2 * seen[0]


def test_a_checkpointed_student_learns_the_same_beside_a_teacher(backbone_path):
    """
    Layers are computed again with the student's scales, not with the teacher's, which also ran.
    """
    gradients = []
    for checkpointing in (False, True):
        backbone = PromptedBackbone(backbone_path, dtype=torch.float32, checkpointing=checkpointing)
        teacher, student = (ScaleFactors(backbone.shape, ["a"], ("o", "f")) for _ in range(2))
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(1.5)
        teaching = Teaching(teacher.requires_grad_(False), Distillation())
        losses(backbone, student, collate(ROWS), teaching).total.backward()
        gradients.append([parameter.grad for parameter in student.parameters()])

    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
