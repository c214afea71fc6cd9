"""
The training loop: trains any `Learner` on all tasks side by side, with or without teachers.

A run lives in a folder with ``checkpoint.pt`` and ``log.jsonl``. Both are replaced atomically, so a
killed run loses at most the steps since the last checkpoint. The same run started again in the same
folder resumes there and ends with the same bits as an uninterrupted one.

Dimension key:  K tasks   B examples   A answer tokens   T text positions
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

from galenic_adapters.backbone.prefixes import Openings
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.errors import BadInput
from galenic_adapters.files import write_whole
from galenic_adapters.training.batches import Encoded, Row, collate, opened, split
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.distributed import make_crew
from galenic_adapters.training.losses import Teaching, losses
from galenic_adapters.training.modules import Learner
from galenic_adapters.training.recipe import Phase
from galenic_adapters.training.sampler import Portion, stream

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 30.0
SAVING_SHARE = 0.1
"""The largest share of a run's time that checkpoints may take."""
CLIP_NORM = 1.0
LOWEST_RATE = 0.05  # of the peak, at the cosine's end
BATCH_TOKENS = {"cpu": 1024, "cuda": 49152}
"""Text tokens of one forward pass. It suits the machine and does not change what is learned."""

Judge = Callable[[], dict[str, float]]
"""Answers each task's dev examples as users would have them and scores them; higher is better."""


class Run:
    """
    Trains *learner* on *courses* through one *phase*, and keeps its checkpoints in *folder*.

    teaching: frozen teachers to distil from.   judge: scores for dev evaluations; without one, the
    dev loss decides which factor is best.   batch_tokens: overrides `BATCH_TOKENS`.
    """

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
        shares = [Portion(c.name, len(c.train), c.source.weight) for c in courses]
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
        """Resume from the folder's checkpoint and train to the end; *what* labels the bar."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        saved, pause = time.monotonic(), CHECKPOINT_SECONDS
        rows = _rows_until(self.folder / "log.jsonl", self.step)
        dev_figure = ""
        with _bar(self.crew.rank == 0) as bar:
            shown = bar.add_task(what, total=self.phase.num_steps, completed=self.step, figures="")
            while not self.is_over:
                row = self.learn_step()
                rows.append(row)
                if self._is_time_to_look():
                    row["dev"] = self.look()
                    dev_figure = _dev_figure(row["dev"])
                speed = f"{row['tokens'] / row['seconds']:.0f} tokens/s"
                figures = f"loss {row['mean']:.3f}{dev_figure}  {speed}"
                bar.update(shown, advance=1, figures=figures)
                if (began := time.monotonic()) - saved > pause or self.is_over:
                    self.save(rows)
                    saved = time.monotonic()
                    # A slow disk makes checkpoints rarer, not the run slower.
                    pause = max(CHECKPOINT_SECONDS, (saved - began) / SAVING_SHARE)

    def _is_time_to_look(self) -> bool:
        every = self.phase.dev_every
        return every > 0 and (self.step % every == 0 or self.step == self.phase.num_steps)

    def learn_step(self) -> dict[str, Any]:
        """
        Take one optimizer step on the next draw from the sampler, and return its log row.

        Gradients accumulate over batches of bounded tokens. The row holds the mean loss per answer
        token (in nats) of each task drawn, tokens with padding, and seconds.
        """
        began = time.monotonic()
        num_tasks = len(self.courses)
        # Sum of losses and number of answer tokens of each task, for the log only.
        nats_K, count_K = torch.zeros(2, num_tasks, device=self.backbone.device).unbind()
        num_tokens = 0
        groups = self.crew.part(list(split(self._rows(), self.batch_tokens)))
        which_B = torch.tensor([row.which for rows in groups for row in rows])
        teaching = self.teaching and self.teaching.ahead(self.backbone, which_B, self.openings)
        # Each task's KV prefix is computed once a step; leaving the block runs its backward pass.
        with self.backbone.once(self.learner, which_B, self.openings) as tuning:
            for rows in groups:
                batch = collate(rows).to(self.backbone.device)
                made = losses(self.backbone, tuning, batch, teaching)
                torch.autograd.backward(made.total)
                nats_K.index_add_(0, batch.which_A, made.nll_A)
                count_K.index_add_(0, batch.which_A, torch.ones_like(made.nll_A))
                num_tokens += batch.ids_BT.numel()
        learning = [p for p in self.learner.parameters() if p.requires_grad]
        # Losses are sums with weights of the whole step, so gradients of processes add up.
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
        Draw the next step's examples and weight them.

        Tokens of one source weigh the same; a source weighs by its number of examples, whatever
        the length of its answers.
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
        """
        Clip gradients by norm, one task at a time, so that a task learns as it would alone.

        The shared gradient is a sum over tasks: it is averaged, then clipped.
        """
        own = [p.grad for p in self.learner.own().values() if p.grad is not None]
        if own:
            # (K, ...) parameters: the norm runs over all dimensions but the first.
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
        Evaluate on the dev sets, and keep a copy of each task whose best value improved.

        Returns the scores, or the losses if there is no judge. A tie in scores goes to the lower
        loss.
        """
        nats = dev_losses(self.backbone, self.learner, self.courses, self.batch_tokens)
        scores = self.judge() if self.judge else {}
        # Rounding differs between GPUs: without this, processes could stop at different steps.
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
        """
        Restore each task's own parameters from its best dev evaluation.

        For frozen metaprompts only: a copy is worth nothing over a metaprompt that moved on.
        """
        for which, course in enumerate(self.courses):
            if course.name in self.best:
                self.learner.put_back(which, self.best[course.name][1])

    def save(self, rows: list[dict[str, Any]]) -> None:
        """Write the checkpoint and the log, from the first process alone."""
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
        """Load the checkpoint, if there is one, and advance the sampler to the step after it."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        parts = torch.load(path, weights_only=True, map_location="cpu")
        self.learner.load_state_dict(parts["learner"])
        for _ in range(parts["step"]):
            next(self.stream)
            self.optimizer.step()  # without gradients; the schedule warns if it is not called
            self.schedule.step()
        self.optimizer.load_state_dict(parts["optimizer"])
        self.step, self.best = parts["step"], parts["best"]
        self.looks_without_gain = parts["looks_without_gain"]


def _replace(path: Path, data: bytes, step: int) -> None:
    """Replace *path* atomically. Raises `BadInput` if the disk is full; the old file stays."""
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
    """
    Split off the tokens that all questions of a task begin with.

    Returns them by task number, and each task's examples without them; where the backbone shares
    no prefixes, there are none and examples stay whole.
    """
    if not backbone.shares:
        return {}, examples
    pairs = [opened(many) for many in examples]
    return {k: opening for k, (opening, _) in enumerate(pairs)}, [rest for _, rest in pairs]


def dev_losses(
    backbone: PromptedBackbone, learner: Learner, courses: Sequence[Course], batch_tokens: int
) -> dict[str, float]:
    """Return each task's mean loss per dev answer token in nats; tasks without dev are absent."""
    nats = mean_losses(backbone, learner, [course.dev for course in courses], batch_tokens)
    return {courses[k].name: mean for k, mean in nats.items()}


@torch.no_grad()
def mean_losses(
    backbone: PromptedBackbone,
    learner: Learner,
    examples: Sequence[Sequence[Encoded]],
    batch_tokens: int,
) -> dict[int, float]:
    """Return the mean loss per answer token in nats, by task number, of *examples* of each task."""
    openings, examples = open_all(backbone, examples)
    rows = [Row(k, encoded) for k, many in enumerate(examples) for encoded in many]
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
    """Return the share of the peak learning rate at *step*: linear warm-up, then a cosine."""
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


def _dev_figure(dev: dict[str, float]) -> str:
    return f"  dev {sum(dev.values()) / len(dev):.3f}" if dev else ""


def _bar(is_shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        disable=not is_shown,
    )
