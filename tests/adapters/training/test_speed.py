import torch

from galenic_adapters.training import speed


def test_every_way_is_measured_as_often(backbone):
    """How fast is for the command to say; here, that it runs what it says it runs."""
    seconds = speed.compare(backbone, num_tokens=300, rounds=2)

    assert ["plain", "teachers", "factors", "distillation"] == list(seconds)
    assert {2} == {len(taken) for taken in seconds.values()}


def test_the_plain_side_is_of_the_same_examples(backbone):
    """Its loss is the factor's, which starts as the same prompt."""
    batch = speed.made_up(backbone, 300)

    assert 300 <= (batch.ids_BT != 0).sum() + len(batch.ids_BT)
    assert speed.NUM_TASKS == len(batch.which_B.unique())
    assert torch.equal(batch.ids_BT, speed.made_up(backbone, 300).ids_BT)


def test_the_command_says_tokens_and_shares(backbone_path, capsys):
    speed.main(["--backbone", str(backbone_path), "--tokens", "200", "--rounds", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert "plain" == lines[0].split()[0] and "100% of plain" in lines[0]
    assert 4 == len(lines)
