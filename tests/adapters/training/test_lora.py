"""
The baselines are the real ones: PEFT's own LoRA and prompt tuning, from the same start, say and
learn the same.
"""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.training.batches import Encoded, Row, collate
from galenic_adapters.training.lora import Loras
from galenic_adapters.training.losses import losses
from galenic_adapters.training.modules import DensePrompts

ROWS = [Row(1, Encoded((5, 6, 7), (8, 2))), Row(1, Encoded((9, 10, 4), (11, 2)))]
RANK = 4


def theirs_loss(model, rows):
    """The same sum over answer tokens, as a trainer on labels has it."""
    ids = torch.tensor([[*row.encoded.question, *row.encoded.answer] for row in rows])
    labels = ids.clone()
    labels[:, : len(rows[0].encoded.question)] = -100
    return model(input_ids=ids, labels=labels).loss * (labels != -100).sum()


@pytest.fixture
def base(backbone_path):
    return AutoModelForCausalLM.from_pretrained(backbone_path, dtype=torch.float32)


def test_lora_is_pefts(backbone, base):
    config = peft.LoraConfig(
        r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(base, config)
    ours = Loras(backbone.model, ["other", "this"], RANK, alpha=16)
    named = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    pairs = list(zip(named.values(), ours.own().values(), strict=True))
    with torch.no_grad():
        for their, mine in pairs:
            torch.nn.init.normal_(their, std=0.1)
            mine[1] = their

    with ours.attached():
        loss = losses(backbone, ours, collate(ROWS)).total
        loss.backward()
    their_loss = theirs_loss(theirs, ROWS)
    their_loss.backward()

    assert pytest.approx(their_loss.item(), rel=1e-5) == loss.item()
    for their, mine in pairs:
        torch.testing.assert_close(their.grad, mine.grad[1], atol=1e-5, rtol=1e-3)
        assert 0 == mine.grad[0].abs().max()  # the neighbour feels nothing
    assert sum(p.numel() for p in named.values()) == ours.num_own()


def test_some_layers_alone(backbone):
    learner = Loras(backbone.model, ["this"], 1, layers=("k_proj", "v_proj"))

    config = backbone.model.config
    key_width = config.num_key_value_heads * config.head_dim
    assert 2 * config.num_hidden_layers == len(learner.layers)
    assert 2 * config.num_hidden_layers * (config.hidden_size + key_width) == learner.num_own()


def test_lora_starts_as_the_bare_backbone_and_leaves_it_alone(backbone):
    ours = Loras(backbone.model, ["a", "b"], RANK)
    batch = collate(ROWS)
    bare = backbone.model(input_ids=batch.ids_BT).logits

    ours.choose(batch.which_B)
    with ours.attached():
        assert torch.equal(bare, backbone.model(input_ids=batch.ids_BT).logits)
    with torch.no_grad():
        ours.b0.fill_(1.0)
    assert torch.equal(bare, backbone.model(input_ids=batch.ids_BT).logits)


def test_prompt_tuning_is_pefts(backbone_path, base):
    """Ten steps of Adam from the same start end at the same prompt."""
    backbone = PromptedBackbone(backbone_path, dtype=torch.float32)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    theirs = peft.get_peft_model(base, config)
    (their_rows,) = (p for p in theirs.parameters() if p.requires_grad)
    ours = DensePrompts(their_rows.detach(), ["other", "this"])
    adams = [torch.optim.Adam([rows], lr=0.01) for rows in (their_rows, ours.rows_KPD)]

    for _ in range(10):
        losses(backbone, ours, collate(ROWS)).total.backward()
        theirs_loss(theirs, ROWS).backward()
        for adam in adams:
            adam.step()
            adam.zero_grad()

    torch.testing.assert_close(their_rows, ours.rows_KPD[1], atol=1e-4, rtol=1e-3)
