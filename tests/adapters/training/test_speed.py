from galenic_adapters.backbone.prompted import opening_of
from galenic_adapters.training import speed


def test_every_way_is_measured_as_often(backbone):
    """How fast is for the command to say; here, that it runs what it says it runs."""
    seconds = speed.compare(backbone, num_tokens=300, rounds=2)

    assert ["plain", "teachers", "factors", "distillation"] == list(seconds)
    assert {2} == {len(taken) for taken in seconds.values()}


def test_examples_are_as_many_tokens_as_asked_behind_their_task_s_instruction(backbone):
    tasks = speed.made_up(backbone, 900)

    openings = [opening_of([one.question for one in many]) for many in tasks]
    assert 900 <= sum(len(one) for many in tasks for one in many) < 900 + speed.LENGTHS[1]
    assert [speed.NUM_INSTRUCTION] * speed.NUM_TASKS == [len(opening) for opening in openings]
    assert tasks == speed.made_up(backbone, 900)


def test_the_command_says_tokens_and_shares(backbone_path, capsys):
    speed.main(["--backbone", str(backbone_path), "--tokens", "200", "--rounds", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert "plain" == lines[0].split()[0] and "100% of plain" in lines[0]
    assert 4 == len(lines)
