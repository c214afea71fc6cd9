"""
Compares methods and learning rates by dev loss, before a study is run.

    python -m galenic_adapters.study.trial OUT.jsonl --data DATA --targets phee_ner,phee_re \\
        --methods plain_of@0.03,ia3@0.01,lora@0.003 [--run RUN] [--steps 100 --rows 2]

Every method trains on the same examples of the same targets in the same order. Each line of
OUT.jsonl is one method at one rate; one that is there already is not run again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from galenic_adapters.backbone.load import load
from galenic_adapters.study.catalogue import chosen, read_catalogue
from galenic_adapters.study.exams import Exam
from galenic_adapters.study.methods import method_of
from galenic_adapters.study.preset import Preset
from galenic_adapters.study.stages import Study, named
from galenic_adapters.training.loop import Run, dev_losses
from galenic_adapters.training.recipe import Phase


def trial(arguments: argparse.Namespace, say: Any = print) -> None:
    """Run every method and rate that OUT does not hold yet."""
    backbone_id, backbone = load(None, say)
    preset = replace(Preset.load("targets"), max_dev=arguments.max_dev)
    targets = tuple(arguments.targets.split(","))
    listed = chosen(read_catalogue(arguments.data), "target", targets)
    exams = [Exam.of(target, 1) for target in listed]
    study = Study(preset, backbone, backbone_id, arguments.data, [], exams)
    done = [json.loads(line) for line in _lines(arguments.out)]
    for asked in arguments.methods.split(","):
        name, _, rate = asked.partition("@")
        what = {
            "method": name,
            "rate": float(rate),
            "targets": arguments.targets,
            "steps": arguments.steps,
            "rows": arguments.rows,
            "max_dev": arguments.max_dev,
        }
        if not any(what.items() <= row.items() for row in done):
            row = what | _learned(study, what, arguments.run)
            with arguments.out.open("a") as out:
                out.write(json.dumps(row) + "\n")
            say(json.dumps(row))


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text("utf-8").splitlines()


def _learned(study: Study, what: dict[str, Any], run: Path | None) -> dict[str, Any]:
    """Train the targets side by side; returns parameters per target, dev losses and seconds."""
    began = time.monotonic()
    torch.manual_seed(0)
    courses = [named(course, "s0") for course in study.target_courses]
    learner = method_of(what["method"]).learner(study.given(courses, run))
    phase = Phase(
        what["steps"], what["rate"], rows_per_source=what["rows"], temperature=1e9, dev_every=0
    )
    with TemporaryDirectory() as folder, learner.attached():
        Run(learner, study.backbone, courses, phase, Path(folder)).finish(what["method"])
        nats = dev_losses(study.backbone, learner, courses, study.batch_tokens)
    seconds = round(time.monotonic() - began)
    return {"num_parameters": learner.num_own(), "nats": nats, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--targets", default="phee_ner,phee_re")
    parser.add_argument("--methods", required=True, help="each as NAME@RATE")
    parser.add_argument("--run", type=Path, help="a finished train, for methods over a metaprompt")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2, help="examples a target and step")
    parser.add_argument("--max-dev", type=int, default=100)
    trial(parser.parse_args())


if __name__ == "__main__":
    main()
