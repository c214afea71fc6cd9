"""
Two processes take a run's steps together and learn what one alone learns.
"""

import os
import subprocess
import sys

import torch

from galenic_adapters.training.datasets import prepare
from galenic_adapters.training.loop import Run
from galenic_adapters.training.modules import Factors
from galenic_adapters.training.recipe import Phase
from tests.support.serving import free_port

PHASE = Phase(num_steps=4, lr=0.1, lr_shared=0.03, dev_every=2)
MEMBER = """
import sys, torch
from pathlib import Path
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.training.distributed import make_crew
from galenic_adapters.training.recipe import Source
from tests.adapters.training.test_distributed import learn

path, data, folder = sys.argv[1:]
torch.set_num_threads(1)
backbone = PromptedBackbone(path, dtype=torch.float32)
files = [(name, f"{data}/{name}.jsonl") for name in ("nli", "ner")]
learn(backbone, [Source(name, name, file, file) for name, file in files], Path(folder))
crew = make_crew()
ones = torch.ones(1)
crew.add_up([], ones)
(Path(folder) / f"member-{crew.rank}").write_text(f"{int(ones)} agree on {crew.agree(crew.rank)}")
torch.distributed.barrier()
torch.distributed.destroy_process_group()  # who leaves without it may abort those that are behind
"""


def learn(backbone, sources, folder):
    courses = [prepare(source, backbone.tokenizer) for source in sources]
    learner = Factors(backbone.embed_text("Be brief.", 8), [c.name for c in courses], 2)
    Run(learner, backbone, courses, PHASE, folder, batch_tokens=128).finish()
    return learner


def test_two_learn_what_one_learns(backbone, backbone_path, sources, tmp_path):
    alone = learn(backbone, sources, tmp_path / "alone")
    data = os.path.dirname(sources[0].train)  # noqa: PTH120  a string, as the members take it

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port())]
    script = tmp_path / "member.py"
    script.write_text(MEMBER)
    done = subprocess.run(
        [*command, str(script), backbone_path, data, str(tmp_path / "crew")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )

    assert 0 == done.returncode, done.stderr[-2000:]
    for rank in (0, 1):
        assert "2 agree on 0" == (tmp_path / "crew" / f"member-{rank}").read_text()
    parts = torch.load(tmp_path / "crew" / "checkpoint.pt", weights_only=True)
    assert 4 == parts["step"]
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(tensor, parts["learner"][name], atol=2e-3, rtol=1e-2)
