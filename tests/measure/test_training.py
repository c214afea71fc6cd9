"""The measuring of training speed measures what it says."""

from pathlib import Path

import pytest
import torch

from galenic_adapters.backbone.prefixes import opening_of
from galenic_adapters.backbone.prompted import PromptedBackbone
from tests.measure import training


@pytest.fixture(scope="module")
def backbone(llama: Path) -> PromptedBackbone:
    return PromptedBackbone(llama, dtype=torch.float32)


def test_every_variant_is_measured_as_often(backbone: PromptedBackbone):
    """
    Each variant of a step runs once a round, and warming up is not counted.
    """
    seconds = training.compare(backbone, num_tokens=300, rounds=2)

    assert ["plain", "teachers", "factors", "distillation"] == list(seconds)
    assert {2} == {len(taken) for taken in seconds.values()}


def test_examples_have_as_many_tokens_as_asked(backbone: PromptedBackbone):
    """
    They begin with their task's instruction, and are the same each time.
    """
    tasks = training.made_up(backbone, 900)

    openings = [opening_of([example.question for example in own]) for own in tasks]
    num_tokens = sum(len(example) for own in tasks for example in own)
    assert 900 <= num_tokens < 900 + training.LENGTHS[1]
    assert [training.NUM_INSTRUCTION] * training.NUM_TASKS == [len(each) for each in openings]
    assert tasks == training.made_up(backbone, 900)


def test_the_command_prints_tokens_and_shares(llama: Path, capsys: pytest.CaptureFixture[str]):
    """
    It prints a line for each variant, with its share of a plain pass.
    """
    training.main(["--backbone", str(llama), "--tokens", "200", "--rounds", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert "plain" == lines[0].split()[0] and "100% of plain" in lines[0]
    assert 4 == len(lines)
