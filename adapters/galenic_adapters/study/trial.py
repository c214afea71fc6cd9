"""
A fair trial of forms: where a factor should act, and at which rate, by dev loss.

    python -m galenic_adapters.study.trial OUT.jsonl --data DATA [--only SUBSTRING] [--size 200|600]

Every form learns the same examples of the same targets in the same order, within 0.05 % of the
backbone's parameters; opponents (LoRA, prompt tuning, prefix tuning) have what they have. A line
of OUT.jsonl is one form at one rate; what stands there is not run again.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from galenic_adapters.backbone import ensure
from galenic_adapters.manifest import BackboneId
from galenic_adapters.prompted import PromptedBackbone
from galenic_adapters.study.catalogue import chosen, read_catalogue
from galenic_adapters.study.preset import Preset
from galenic_adapters.study.records import Exam
from galenic_adapters.study.stages import Study, named
from galenic_adapters.training.learn import Run, dev_losses
from galenic_adapters.training.learners import DensePrompts, Learner
from galenic_adapters.training.lora import Loras
from galenic_adapters.training.recipe import TEXT, Phase
from galenic_adapters.training.scales import Scales
from galenic_adapters.zoo import metaprompt_of

SIZES = {
    200: Phase(100, 1.0, rows_per_source=2, temperature=1e9, dev_every=0),
    600: Phase(75, 1.0, rows_per_source=8, temperature=1e9, dev_every=0),
}


def forms(study: Study) -> dict[str, tuple[Callable[[Sequence[str]], Learner], tuple[float, ...]]]:
    model, backbone = study.backbone.model, study.backbone
    text_PD = backbone.embed_text(TEXT, 64)

    def scales(places: str, shifts: str = "", meta: bool = False, rank: int = 0):
        def make(names: Sequence[str]) -> Learner:
            rows = None
            if meta:
                rows = metaprompt_of(study.backbone_id).rows_PD.float().repeat(len(names), 1, 1)
            return Scales(model, names, places, shifts=shifts, prompts_KPD=rows, rank=rank)

        return make

    return {
        "scales o f": (scales("of"), (0.03, 0.01)),
        "scales o f, metaprompt": (scales("of", meta=True), (0.03,)),
        "scales k v f": (scales("kvf"), (0.03,)),
        "scales f": (scales("f"), (0.03,)),
        "scales k o": (scales("ko"), (0.03,)),
        "scales q o": (scales("qo"), (0.03,)),
        "scales q k o": (scales("qko"), (0.03,)),
        "scales f, shifts o": (scales("f", "o"), (0.03, 0.01)),
        "shifts o": (scales("", "o"), (0.01,)),
        "shifts q k v": (scales("", "qkv"), (0.03,)),
        "scales k f": (scales("kf"), (0.03,)),
        "scales o f, rank 16": (scales("of", rank=16), (0.03,)),
        "scales k v o f, rank 16": (scales("kvof", rank=16), (0.03,)),
        "lora r=1 of k v": (
            lambda names: Loras(model, names, 1, alpha=2.0, layers=("k_proj", "v_proj")),
            (0.01, 0.02),
        ),
        "lora r=8": (lambda names: Loras(model, names, 8), (0.003,)),
        "prompt tuning": (lambda names: DensePrompts(text_PD, names), (0.03,)),
    }


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("out", type=Path)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--only", default="")
    p.add_argument("--size", type=int, default=200)
    p.add_argument("--targets", default="phee_ner,phee_re")
    p.add_argument("--rates", default="")
    p.add_argument("--max-dev", type=int, default=100)
    a = p.parse_args()
    found = ensure(None)
    preset = Preset.load("targets")
    listed = read_catalogue(a.data)
    targets = tuple(a.targets.split(","))
    exams = [Exam.of(one, 10) for one in chosen(listed, "target", targets)]
    from dataclasses import replace

    preset = replace(preset, max_dev=a.max_dev)
    study = Study(
        preset,
        PromptedBackbone(found.path),
        BackboneId(name=found.name, revision=found.revision),
        a.data,
        [],
        exams,
    )
    done = (
        {
            (r["form"], r["rate"], r["size"], r["targets"])
            for r in map(json.loads, a.out.read_text().splitlines())
        }
        if a.out.exists()
        else set()
    )
    for name, (make, rates) in forms(study).items():
        if a.only and name not in a.only.split(";"):
            continue
        for rate in map(float, a.rates.split(",")) if a.rates else rates:
            if (name, rate, a.size, a.targets) in done:
                continue
            began = time.monotonic()
            torch.manual_seed(0)
            courses = [named(c, "s0") for c in study.target_courses]
            learner = make([c.name for c in courses])
            phase = replace(SIZES[a.size], lr=rate)
            with (
                TemporaryDirectory() as folder,
                learner.attached() if hasattr(learner, "attached") else nullcontext(),
            ):
                run = Run(learner, study.backbone, courses, phase, Path(folder))
                run.finish(name)
                nats = dev_losses(study.backbone, learner, courses, study.batch_tokens)
            row = {
                "form": name,
                "rate": rate,
                "size": a.size,
                "targets": a.targets,
                "num": learner.num_own(),
                "nats": nats,
                "mean": sum(nats.values()) / len(nats),
                "seconds": round(time.monotonic() - began),
            }
            with a.out.open("a") as f:
                f.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
