"""
The training loop: for whatever learns, all tasks side by side, with teachers or without.

A run lives in a folder: ``checkpoint.pt`` (replaced whole, so a kill loses at most the steps since)
and ``log.jsonl``. The same run in the same folder goes on where it stopped, bit for bit.
"""

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from galenic_adapters.backbone.prompted import Openings, PromptedBackbone
from galenic_adapters.errors import BadInput
from galenic_adapters.files import write_whole
from galenic_adapters.training.batches import Encoded, Row, collate, opened, split
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.distributed import make_crew
from galenic_adapters.training.losses import Teaching, losses
from galenic_adapters.training.modules import Learner
from galenic_adapters.training.recipe import Phase
from galenic_adapters.training.sampler import Share, stream

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 30.0
SAVING_SHARE = 0.1
"""At most, of a run's time."""
CLIP_NORM = 1.0
LOWEST_RATE = 0.05  # of the peak, at the cosine's end
BATCH_TOKENS = {"cpu": 1024, "cuda": 49152}
"""Text tokens of one forward pass; what the machine takes, no part of the recipe."""

Judge = Callable[[], dict[str, float]]
"""Scores each task's dev data as users will; higher is better."""


class Run:
    """One run on its way: what learns, where it stands, and where that is kept."""

    def __init__(
        self,
        learner: Learner,
        backbone: PromptedBackbone,
        courses: Sequence[Course],
        phase: Phase,
        folder: Path,
        *,
        seed: int = 0,
        teaching: Teaching | None = None,
        judge: Judge | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.learner, self.backbone, self.courses = learner.to(backbone.device), backbone, courses
        self.phase, self.folder, self.teaching, self.judge = phase, folder, teaching, judge
        self.batch_tokens = batch_tokens or BATCH_TOKENS[backbone.device.type]
        self.step = 0
        self.looks_without_gain = 0
        self.best: dict[str, tuple[tuple[float, float], dict[str, Tensor]]] = {}
        self.openings, self.examples = open_all(backbone, [course.train for course in courses])
        self.crew = make_crew()
        self.num_rows = phase.rows_per_source * len(courses)
        shares = [Share(c.name, len(c.train), c.source.weight) for c in courses]
        self.stream = stream(
            shares, self.num_rows, temperature=phase.temperature, cap=phase.cap, seed=seed
        )
        self.optimizer = _optimizer(learner, phase)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate(step, phase)
        )

    @property
    def is_over(self) -> bool:
        patience = self.phase.patience
        is_stuck = patience > 0 and self.looks_without_gain >= patience
        return self.step >= self.phase.num_steps or is_stuck

    def finish(self, what: str = "learn") -> None:
        """Go on from where the folder says, to the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        saved, pause = time.monotonic(), CHECKPOINT_SECONDS
        rows = _rows_until(self.folder / "log.jsonl", self.step)
        said = ""
        with _bar(self.crew.rank == 0) as bar:
            shown = bar.add_task(what, total=self.phase.num_steps, completed=self.step, said="")
            while not self.is_over:
                row = self.learn_step()
                rows.append(row)
                if self._is_time_to_look():
                    row["dev"] = self.look()
                    said = _dev_said(row["dev"])
                speed = f"{row['tokens'] / row['seconds']:.0f} tokens/s"
                bar.update(shown, advance=1, said=f"loss {row['mean']:.3f}{said}  {speed}")
                if (began := time.monotonic()) - saved > pause or self.is_over:
                    self.save(rows)
                    saved = time.monotonic()
                    pause = max(CHECKPOINT_SECONDS, (saved - began) / SAVING_SHARE)

    def _is_time_to_look(self) -> bool:
        every = self.phase.dev_every
        return every > 0 and (self.step % every == 0 or self.step == self.phase.num_steps)

    def learn_step(self) -> dict[str, Any]:
        """One step of the optimizer over one draw from the stream; what to log of it."""
        began = time.monotonic()
        num_tasks = len(self.courses)
        nats_K, count_K = torch.zeros(2, num_tasks, device=self.backbone.device).unbind()
        num_tokens = 0
        groups = self.crew.part(list(split(self._rows(), self.batch_tokens)))
        which_B = torch.tensor([row.which for rows in groups for row in rows])
        teaching = self.teaching and self.teaching.ahead(self.backbone, which_B, self.openings)
        with self.backbone.once(self.learner, which_B, self.openings) as tuning:
            for rows in groups:
                batch = collate(rows).to(self.backbone.device)
                made = losses(self.backbone, tuning, batch, teaching)
                torch.autograd.backward(made.total)
                nats_K.index_add_(0, batch.which_A, made.nll_A)
                count_K.index_add_(0, batch.which_A, torch.ones_like(made.nll_A))
                num_tokens += batch.ids_BT.numel()
        learning = [p for p in self.learner.parameters() if p.requires_grad]
        self.crew.add_up(learning, nats_K, count_K)
        loss = self._means(nats_K.tolist(), count_K.tolist())
        self._clip()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {
            "step": self.step,
            "mean": sum(loss.values()) / len(loss),
            "loss": loss,
            "tokens": num_tokens,
            "seconds": time.monotonic() - began,
        }

    def _rows(self) -> list[Row]:
        """
        The next step's examples. Weights let a token count the same within a source, and every
        source by its examples, whatever the length of its answers.
        """
        per_source = self.phase.rows_per_source
        return [
            Row(k, self.examples[k][i], 1 / (per_source * self.courses[k].mean_answer))
            for k, i in next(self.stream)
        ]

    def _means(self, nats_K: list[float], count_K: list[float]) -> dict[str, float]:
        means = {}
        for course, nats, count in zip(self.courses, nats_K, count_K, strict=True):
            if not math.isfinite(nats):
                raise BadInput(course.name, f"the loss became {nats}; lower the learning rates")
            if count:
                means[course.name] = round(nats / count, 5)
        return means

    def _clip(self) -> None:
        """By norm: each task's gradient by its own, so that none feels its neighbours."""
        own = [p.grad for p in self.learner.own().values() if p.grad is not None]
        if own:
            squares_K = sum(g.flatten(1).square().sum(1) for g in own)
            assert isinstance(squares_K, Tensor)
            factor_K = (CLIP_NORM / (squares_K.sqrt() + 1e-6)).clamp(max=1.0)
            for g in own:
                g.mul_(factor_K.view(-1, *[1] * (g.ndim - 1)))
        shared = self.learner.shared
        if shared is not None and shared.grad is not None:
            shared.grad.div_(len(self.courses))
            torch.nn.utils.clip_grad_norm_([shared], CLIP_NORM)

    def look(self) -> dict[str, float]:
        """
        The dev scores, or losses where nobody judges; what tasks have at their best is kept aside.
        """
        nats = dev_losses(self.backbone, self.learner, self.courses, self.batch_tokens)
        scores = self.judge() if self.judge else {}
        nats, scores = self.crew.agree((nats, scores))
        gained = False
        for which, course in enumerate(self.courses):
            if (name := course.name) not in nats:
                continue
            reached = (scores.get(name, 0.0), -nats[name])
            if name not in self.best or reached > self.best[name][0]:
                self.best[name] = (reached, self.learner.copy_of(which))
                gained = True
        self.looks_without_gain = 0 if gained else self.looks_without_gain + 1
        return scores or nats

    def take_best(self) -> None:
        """Let every task with dev data have what it had at its best; for frozen metaprompts."""
        for which, course in enumerate(self.courses):
            if course.name in self.best:
                self.learner.put_back(which, self.best[course.name][1])

    def save(self, rows: list[dict[str, Any]]) -> None:
        if self.crew.rank:
            return
        parts = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "looks_without_gain": self.looks_without_gain,
        }
        whole = io.BytesIO()
        torch.save(parts, whole)
        log = "".join(json.dumps(row) + "\n" for row in rows).encode()
        _replace(self.folder / "log.jsonl", log, self.step)
        _replace(self.folder / CHECKPOINT, whole.getvalue(), self.step)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one, with the examples that come next."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        parts = torch.load(path, weights_only=True, map_location="cpu")
        self.learner.load_state_dict(parts["learner"])
        for _ in range(parts["step"]):
            next(self.stream)
            self.optimizer.step()  # without gradients: it only tells the schedule of a step
            self.schedule.step()
        self.optimizer.load_state_dict(parts["optimizer"])
        self.step, self.best = parts["step"], parts["best"]
        self.looks_without_gain = parts["looks_without_gain"]


def _replace(path: Path, data: bytes, step: int) -> None:
    """All or nothing; a full disk ends the run with what it had."""
    try:
        write_whole(path, data)
    except BadInput as e:
        why = f"{e.problem} (at step {step}; make room and run again, it goes on)"
        raise BadInput(e.field, why) from e


def _rows_until(log: Path, step: int) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [row for row in rows if row["step"] <= step]


def open_all(
    backbone: PromptedBackbone, examples: Sequence[Sequence[Encoded]]
) -> tuple[Openings, Sequence[Sequence[Encoded]]]:
    """What each task's texts begin with, where that is shared, and their examples without it."""
    if not backbone.shares:
        return {}, examples
    pairs = [opened(many) for many in examples]
    return {k: opening for k, (opening, _) in enumerate(pairs)}, [rest for _, rest in pairs]


def dev_losses(
    backbone: PromptedBackbone, learner: Learner, courses: Sequence[Course], batch_tokens: int
) -> dict[str, float]:
    """Mean negative log-likelihood of the dev answers' tokens, in nats, where there are any."""
    nats = mean_losses(backbone, learner, [course.dev for course in courses], batch_tokens)
    return {courses[k].name: mean for k, mean in nats.items()}


@torch.no_grad()
def mean_losses(
    backbone: PromptedBackbone,
    learner: Learner,
    examples: Sequence[Sequence[Encoded]],
    batch_tokens: int,
) -> dict[int, float]:
    """The same by task number, of any examples of each."""
    openings, examples = open_all(backbone, examples)
    rows = [Row(k, one) for k, many in enumerate(examples) for one in many]
    nats_K, count_K = torch.zeros(2, len(examples), device=backbone.device).unbind()
    which_B = torch.tensor([row.which for row in rows])
    with backbone.once(learner, which_B, openings) as tuning:
        for group in split(rows, batch_tokens) if rows else ():
            batch = collate(group).to(backbone.device)
            nll_A = losses(backbone, tuning, batch).nll_A
            nats_K.index_add_(0, batch.which_A, nll_A)
            count_K.index_add_(0, batch.which_A, torch.ones_like(nll_A))
    means = enumerate(zip(nats_K.tolist(), count_K.tolist(), strict=True))
    return {k: nats / count for k, (nats, count) in means if count}


def rate(step: int, phase: Phase) -> float:
    """The share of the peak learning rate at *step*: a linear warm-up, then a cosine."""
    warm = max(1, int(phase.warmup * phase.num_steps))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, phase.num_steps - warm))
    return LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(learner: Learner, phase: Phase) -> torch.optim.Optimizer:
    own = list(learner.own().values())
    for parameter in own:
        parameter.requires_grad_(phase.lr > 0)
    groups: list[dict[str, Any]] = [{"params": own, "lr": phase.lr}]
    if learner.shared is not None:
        learner.shared.requires_grad_(phase.lr_shared > 0)
        groups.append({"params": [learner.shared], "lr": phase.lr_shared})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)


def _dev_said(dev: dict[str, float]) -> str:
    return f"  dev {sum(dev.values()) / len(dev):.3f}" if dev else ""


def _bar(is_shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
        disable=not is_shown,
    )
