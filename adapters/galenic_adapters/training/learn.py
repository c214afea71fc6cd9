"""
The training loop: a metaprompt jointly with its factors, or factors alone over a frozen one.

A run lives in a folder: ``recipe.json``, ``checkpoint.pt`` (replaced whole, so a kill loses at most
the steps since) and ``log.jsonl``. The same recipe in the same folder goes on where it stopped.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from galenic_adapters.errors import BadInput, Conflict
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.training.batches import Encoded, batches, collate
from galenic_adapters.training.courses import Course, prepare
from galenic_adapters.training.prompted import PromptedBackbone
from galenic_adapters.training.recipe import Recipe
from galenic_adapters.training.student import Student

CHECKPOINT_EVERY = 25
CLIP_NORM = 1.0
LOWEST_RATE = 0.05  # of the peak, at the cosine's end
DEV_BATCH = 8


def learn(
    recipe: Recipe,
    backbone: PromptedBackbone,
    folder: Path,
    *,
    data: Path = Path(),
    frozen: Metaprompt | None = None,
    start: Factor | None = None,
) -> tuple[Student, list[Course]]:
    """
    Run *recipe* on the files below *data*, to its end in *folder*; with *frozen*, only factors
    learn.

    Over a frozen metaprompt a source's factor is the one of its lowest dev loss, where it has dev
    data; else the last. Raises `BadInput` for faulty data and a loss that is not a number,
    `Conflict` where the folder holds another recipe's run.
    """
    torch.manual_seed(recipe.seed)
    _claim(folder, recipe)
    courses = [prepare(s, recipe, backbone.tokenizer, data=data) for s in recipe.sources]
    rows_PD = frozen.rows_PD if frozen else backbone.embed_text(recipe.init, recipe.num_positions)
    student = Student(rows_PD, [c.name for c in courses], recipe.rank, seed=recipe.seed)
    student.meta_PD.requires_grad_(frozen is None)
    if start:
        for course in courses:
            student.start_from(course.name, start)
    run = Run(recipe, backbone, folder, student, courses)
    run.resume()
    run.finish()
    if frozen:
        run.take_best()
    return student, courses


class Run:
    """One run on its way: what learns, where it stands, and where that is kept."""

    def __init__(
        self,
        recipe: Recipe,
        backbone: PromptedBackbone,
        folder: Path,
        student: Student,
        courses: list[Course],
    ) -> None:
        self.recipe, self.backbone, self.folder = recipe, backbone, folder
        self.student, self.courses = student, courses
        self.step = 0
        self.best_dev: dict[str, float] = {}
        self.best: dict[str, dict[str, Tensor]] = {}
        self.draws = draws(recipe)
        self.streams = {
            c.name: batches(c.train, recipe.batch_tokens, seed=f"{recipe.seed}/{c.name}")
            for c in courses
        }
        self.optimizer = _optimizer(student, recipe)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate(step, recipe)
        )

    def finish(self) -> None:
        """Every step from here to the recipe's last."""
        total = self.recipe.num_steps
        with _bar() as bar, (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            shown = bar.add_task("learn", total=total, completed=self.step, said="")
            while self.step < total:
                row = self.learn_step()
                log.write(json.dumps(row) + "\n")
                said = f"loss {row['mean']:.3f}  {row['tokens'] / row['seconds']:.0f} tokens/s"
                bar.update(shown, advance=1, said=said)
                is_last = self.step == total
                if self.step % self.recipe.dev_every == 0 or is_last:
                    log.write(json.dumps({"step": self.step, "dev": self.look()}) + "\n")
                if self.step % CHECKPOINT_EVERY == 0 or is_last:
                    log.flush()
                    self.save()

    def learn_step(self) -> dict[str, Any]:
        """One step of the optimizer over a batch of each source drawn; what to log of it."""
        began = time.monotonic()
        names = next(self.draws)
        losses: dict[str, float] = {}
        num_tokens = 0
        for name in names:
            batch = collate(next(self.streams[name]))
            loss = self.backbone.loss(self.student.prompt(name), batch)
            if not loss.isfinite():
                raise BadInput(name, f"the loss became {loss.item()}; lower the learning rates")
            torch.autograd.backward(loss / len(names))
            losses[name] = loss.item()
            num_tokens += batch.ids_BT.numel()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {
            "step": self.step,
            "mean": sum(losses.values()) / len(losses),
            "loss": losses,
            "tokens": num_tokens,
            "seconds": time.monotonic() - began,
        }

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """The dev losses; factors at a new low are kept aside."""
        looked = {}
        for course in self.courses:
            if not course.dev:
                continue
            name = course.name
            looked[name] = dev_loss(self.backbone, self.student.prompt(name), course.dev)
            if looked[name] < self.best_dev.get(name, math.inf):
                self.best_dev[name] = looked[name]
                self.best[name] = self.student.state_of(name)
        return looked

    def take_best(self) -> None:
        """Let every factor with dev data be the one of its lowest dev loss."""
        for kept in self.best.values():
            self.student.load_state_dict(kept, strict=False)

    def save(self) -> None:
        whole = self.folder / "checkpoint.new"
        parts = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best_dev": self.best_dev,
            "best": self.best,
        }
        torch.save(parts, whole)
        whole.replace(self.folder / "checkpoint.pt")

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one, with the batches that come next."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        parts = torch.load(path, weights_only=True)
        self.student.load_state_dict(parts["student"])
        for _ in range(parts["step"]):
            for name in next(self.draws):
                next(self.streams[name])
            self.optimizer.step()  # without gradients: it only tells the schedule of a step
            self.schedule.step()
        self.optimizer.load_state_dict(parts["optimizer"])
        self.step, self.best_dev, self.best = parts["step"], parts["best_dev"], parts["best"]


@torch.no_grad()
def dev_loss(backbone: PromptedBackbone, prompt_PD: Tensor, dev: list[Encoded]) -> float:
    """Mean negative log-likelihood of the answer tokens of *dev*, in nats."""
    total, count = 0.0, 0
    by_length = sorted(dev, key=len)
    for first in range(0, len(by_length), DEV_BATCH):
        batch = collate(by_length[first : first + DEV_BATCH])
        total += float(backbone.loss(prompt_PD, batch)) * len(batch.next_A)
        count += len(batch.next_A)
    return total / count


def draws(recipe: Recipe) -> Iterator[list[str]]:
    """For every step the sources it sees, drawn by weight, none twice in a step."""
    rng = Random(recipe.seed)
    size = min(recipe.tasks_per_step, len(recipe.sources))
    while True:
        # Efraimidis and Spirakis (2006): the largest of u^(1/w) are a weighted sample.
        keys = {s.name: rng.random() ** (1 / s.weight) for s in recipe.sources}
        yield sorted(keys, key=lambda name: keys[name], reverse=True)[:size]


def rate(step: int, recipe: Recipe) -> float:
    """The share of the peak learning rate at *step*: a linear warm-up, then a cosine."""
    warm = max(1, int(recipe.warmup * recipe.num_steps))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, recipe.num_steps - warm))
    return LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(student: Student, recipe: Recipe) -> torch.optim.Optimizer:
    factors = [*student.u.values(), *student.v.values()]
    groups: list[dict[str, Any]] = [{"params": factors, "lr": recipe.lr_factor}]
    if student.meta_PD.requires_grad:
        groups.append({"params": [student.meta_PD], "lr": recipe.lr_metaprompt})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)


def _claim(folder: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.json"
    if path.exists() and Recipe.load(path) != recipe:
        raise Conflict(f"{folder} holds the run of another recipe; choose another folder")
    recipe.save(path)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
