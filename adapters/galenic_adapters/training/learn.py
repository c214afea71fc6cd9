"""
The training loop: joint learning of a metaprompt with its factors, or of one factor over a frozen one.

A run lives in a folder: ``recipe.json``, ``checkpoint.pt`` (replaced whole, so a kill loses at most the
steps since the last one) and ``log.jsonl``. The same recipe in the same folder goes on where it stopped.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from galenic_adapters.data.examples import read_dataset, with_lists
from galenic_adapters.errors import BadInput, Conflict
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.tasks.base import Task
from galenic_adapters.tasks.registry import make_task
from galenic_adapters.training.batches import Encoded, batches, collate, encode_example
from galenic_adapters.training.prompted import PromptedBackbone
from galenic_adapters.training.recipe import Recipe, Source
from galenic_adapters.training.student import Student

CHECKPOINT_EVERY = 25


@dataclass(frozen=True, slots=True)
class Course:
    """One source, read and encoded; num_left_out counts training examples over the length limit."""

    source: Source
    task: Task[Any, Any]
    train: list[Encoded]
    dev: list[Encoded]
    num_left_out: int


@dataclass(slots=True)
class Progressed:
    """Where a run stands; everything here is in the checkpoint."""

    step: int = 0
    best_dev: dict[str, float] = field(default_factory=dict)
    best: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)


def prepare(source: Source, recipe: Recipe, tokenizer: Any) -> Course:
    """Read *source*'s files and encode its examples; raises `BadInput` that names faulty lines."""
    read = read_dataset(Path(source.train), source.task)
    task = make_task(source.task, read.labels)
    examples = with_lists(read.examples) if source.lists else list(read.examples)
    encoded = [encode_example(tokenizer, task, example) for example in examples]
    train = [one for one in encoded if len(one) <= recipe.max_text_tokens]
    if not train:
        raise BadInput(source.name, f"all {len(encoded)} examples exceed {recipe.max_text_tokens} tokens")
    dev: list[Encoded] = []
    if source.dev:
        held_out = read_dataset(Path(source.dev), source.task).examples[: recipe.max_dev_examples]
        dev = [encode_example(tokenizer, task, example) for example in held_out]
    dev = [one for one in dev if len(one) <= recipe.max_text_tokens]
    return Course(source, task, train, dev, len(encoded) - len(train))


def learn(
    recipe: Recipe,
    backbone: PromptedBackbone,
    folder: Path,
    *,
    frozen: Metaprompt | None = None,
    start: Factor | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> tuple[Student, list[Course]]:
    """
    Run *recipe* to its end in *folder*; with *frozen* given, only factors learn.

    Every source's factor is the one of its lowest dev loss where it has dev data and the metaprompt
    is frozen, else the last. Raises `BadInput` for faulty data and for a loss that is not a number,
    `Conflict` where the folder holds another recipe's run.
    """
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, recipe)
    courses = [prepare(source, recipe, backbone.tokenizer) for source in recipe.sources]
    rows = frozen.rows_PD if frozen else backbone.embed_text(recipe.init, recipe.num_positions)
    student = Student(rows, [s.name for s in recipe.sources], recipe.rank, seed=recipe.seed)
    if start:
        for source in recipe.sources:
            student.start_from(source.name, start)
    optimizer = _optimizer(student, recipe, is_frozen=frozen is not None)
    state = Progressed()
    _load(folder, student, optimizer, state)
    _run(recipe, backbone, folder, student, optimizer, state, courses, on_progress)
    if frozen is not None:
        student.load_state_dict({k: t for best in state.best.values() for k, t in best.items()}, strict=False)
    return student, courses


def _run(
    recipe: Recipe,
    backbone: PromptedBackbone,
    folder: Path,
    student: Student,
    optimizer: torch.optim.Optimizer,
    state: Progressed,
    courses: list[Course],
    on_progress: Callable[[int, float], None] | None,
) -> None:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    streams = {
        c.source.name: batches(c.train, recipe.batch_tokens, seed=f"{recipe.seed}/{c.source.name}")
        for c in courses
    }
    drawn = _draws(recipe)
    for _ in range(state.step):  # replay, so that a resumed run sees the same batches
        for name in next(drawn):
            next(streams[name])
        schedule.step()
    with _bar() as bar, (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        shown = bar.add_task("learn", total=recipe.num_steps, completed=state.step, said="")
        while state.step < recipe.num_steps:
            began = time.monotonic()
            losses, num_tokens = _step(backbone, student, streams, next(drawn))
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            seconds = time.monotonic() - began
            mean = sum(losses.values()) / len(losses)
            log.write(json.dumps({"step": state.step, "loss": losses, "tokens": num_tokens, "s": seconds}) + "\n")
            bar.update(shown, advance=1, said=f"loss {mean:.3f}  {num_tokens / seconds:.0f} tok/s")
            is_last = state.step == recipe.num_steps
            if state.step % recipe.dev_every == 0 or is_last:
                devs = _look(backbone, student, courses, state)
                log.write(json.dumps({"step": state.step, "dev": devs}) + "\n")
            if state.step % CHECKPOINT_EVERY == 0 or is_last:
                log.flush()
                _save(folder, student, optimizer, state)
            if on_progress:
                on_progress(state.step, mean)


def _step(
    backbone: PromptedBackbone,
    student: Student,
    streams: dict[str, Iterator[list[Encoded]]],
    names: list[str],
) -> tuple[dict[str, float], int]:
    """Gradients of one step, source by source; their losses, and the text tokens seen."""
    losses: dict[str, float] = {}
    num_tokens = 0
    for name in names:
        batch = collate(next(streams[name]))
        loss = backbone.loss(student.prompt(name), batch)
        if not loss.isfinite():
            raise BadInput(name, f"the loss became {loss.item()}; lower the learning rates")
        (loss / len(names)).backward()  # type: ignore[no-untyped-call]  # torch ships no types for it
        losses[name] = loss.item()
        num_tokens += batch.ids_BT.numel()
    return losses, num_tokens


@torch.no_grad()
def _look(
    backbone: PromptedBackbone, student: Student, courses: list[Course], state: Progressed
) -> dict[str, float]:
    """The dev losses, a token each counted once; factors at a new low are kept."""
    losses = {}
    for course in courses:
        if not course.dev:
            continue
        name = course.source.name
        losses[name] = dev_loss(backbone, student.prompt(name), course.dev)
        if losses[name] < state.best_dev.get(name, math.inf):
            state.best_dev[name] = losses[name]
            kept = {f"u.{name}": student.u[name], f"v.{name}": student.v[name]}
            state.best[name] = {key: tensor.detach().clone() for key, tensor in kept.items()}
    return losses


@torch.no_grad()
def dev_loss(backbone: PromptedBackbone, prompt_PD: torch.Tensor, dev: list[Encoded]) -> float:
    """Mean negative log-likelihood of the answer tokens of *dev*, in nats."""
    total, count = 0.0, 0
    by_length = sorted(dev, key=len)
    for first in range(0, len(by_length), 8):
        batch = collate(by_length[first : first + 8])
        total += float(backbone.loss(prompt_PD, batch)) * len(batch.next_A)
        count += len(batch.next_A)
    return total / count


def _draws(recipe: Recipe) -> Iterator[list[str]]:
    """For every step the sources it sees, by weight, without a source twice in a step."""
    rng = Random(recipe.seed)
    size = min(recipe.tasks_per_step, len(recipe.sources))
    while True:
        # Efraimidis and Spirakis (2006): the largest of u^(1/w) are a weighted sample.
        keys = {s.name: rng.random() ** (1 / s.weight) for s in recipe.sources}
        yield sorted(keys, key=lambda name: keys[name], reverse=True)[:size]


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    warm = max(1, int(recipe.warmup * recipe.num_steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, recipe.num_steps - warm)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _optimizer(student: Student, recipe: Recipe, *, is_frozen: bool) -> torch.optim.Optimizer:
    student.meta_PD.requires_grad_(not is_frozen)
    factors = [*student.u.values(), *student.v.values()]
    groups: list[dict[str, Any]] = [{"params": factors, "lr": recipe.lr_factor}]
    if not is_frozen:
        groups.append({"params": [student.meta_PD], "lr": recipe.lr_metaprompt})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)


def _claim(folder: Path, recipe: Recipe) -> None:
    path = folder / "recipe.json"
    if path.exists() and Recipe.load(path) != recipe:
        raise Conflict(f"{folder} holds the run of another recipe; choose another folder")
    recipe.save(path)


def _save(
    folder: Path, student: Student, optimizer: torch.optim.Optimizer, state: Progressed
) -> None:
    whole = folder / "checkpoint.new"
    parts = {
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": state.step,
        "best_dev": state.best_dev,
        "best": state.best,
    }
    torch.save(parts, whole)
    os.replace(whole, folder / "checkpoint.pt")


def _load(
    folder: Path, student: Student, optimizer: torch.optim.Optimizer, state: Progressed
) -> None:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return
    parts = torch.load(path, weights_only=True)
    student.load_state_dict(parts["student"])
    optimizer.load_state_dict(parts["optimizer"])
    state.step, state.best_dev, state.best = parts["step"], parts["best_dev"], parts["best"]


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
