"""
Measures how fast training is, relative to a plain forward and backward pass of the backbone.

    python -m tests.measure.training [--backbone NAME] [--tokens 2048] [--rounds 9]

Plain is what any trainer does: one prompt before every example, no tasks, no teachers; the loss is
on answers, and only these go through the output head. All variants run the same examples,
interleaved, so that a busy machine slows all of them.

Dimension key:  K tasks   P prompt positions   D model width   B examples   T text positions
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from statistics import median

import torch
from torch.nn import functional

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.weights import ensure
from galenic_adapters.training.batches import Batch, Encoded, Row, collate
from galenic_adapters.training.loop import open_all
from galenic_adapters.training.losses import Teaching, losses
from galenic_adapters.training.modules import DensePrompts, Factors, Learner
from galenic_adapters.training.recipe import TEXT, Distillation

NUM_TASKS, NUM_POSITIONS, RANK = 4, 64, 16
LENGTHS = (60, 120)
"""Fewest and most tokens of an example: sentences with their instruction."""
NUM_INSTRUCTION, NUM_ANSWER = 28, 8


def made_up(backbone: PromptedBackbone, num_tokens: int) -> list[list[Encoded]]:
    """Make examples for each task, random tokens after its instruction, *num_tokens* in all."""
    rng = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, backbone.vocab_size) for _ in range(count))

    instructions = [tokens(NUM_INSTRUCTION) for _ in range(NUM_TASKS)]
    examples: list[list[Encoded]] = [[] for _ in range(NUM_TASKS)]
    made = 0
    for own, instruction in cycle(zip(examples, instructions, strict=True)):
        if made >= num_tokens:
            break
        length = rng.randint(*LENGTHS)
        rest = tokens(length - NUM_INSTRUCTION - NUM_ANSWER)
        own.append(Encoded((*instruction, *rest), tokens(NUM_ANSWER)))
        made += length
    return examples


def batch_of(backbone: PromptedBackbone, examples: Sequence[Sequence[Encoded]]) -> Batch:
    rows = [Row(which, encoded) for which, many in enumerate(examples) for encoded in many]
    return collate(sorted(rows, key=len)).to(backbone.device)


def sides(
    backbone: PromptedBackbone, examples: Sequence[Sequence[Encoded]]
) -> dict[str, Callable[[], None]]:
    """Return, by name, the variants of a step: functions that run forward and backward."""
    names = [str(k) for k in range(NUM_TASKS)]
    start_PD = backbone.embed_text(TEXT, NUM_POSITIONS)
    dense = DensePrompts(start_PD, names).to(backbone.device)
    factors = Factors(start_PD, names, RANK).to(backbone.device)
    teachers = DensePrompts(start_PD, names).to(backbone.device).requires_grad_(False)
    whole = batch_of(backbone, examples)
    openings, shorter = open_all(backbone, examples)
    batch = batch_of(backbone, shorter)

    def plain() -> None:
        prompt_BPD = start_PD.to(backbone.model.dtype).expand(len(whole.ids_BT), -1, -1)
        texts_BTD = backbone.model.get_input_embeddings()(whole.ids_BT)
        rows = torch.cat([prompt_BPD, texts_BTD], dim=1).requires_grad_()
        states = backbone.model.model(inputs_embeds=rows, use_cache=False).last_hidden_state
        answers_AD = states[:, NUM_POSITIONS:].flatten(0, 1)[whole.at_A]
        torch.autograd.backward(functional.cross_entropy(backbone.logits(answers_AD), whole.next_A))

    def step(learner: Learner, teaching: Teaching | None = None) -> Callable[[], None]:
        def learn() -> None:
            taught = teaching and teaching.ahead(backbone, batch.which_B, openings)
            with backbone.once(learner, batch.which_B, openings) as tuning:
                torch.autograd.backward(losses(backbone, tuning, batch, taught).total)

        return learn

    return {
        "plain": plain,
        "teachers": step(dense),
        "factors": step(factors),
        "distillation": step(factors, Teaching(teachers, Distillation())),
    }


def compare(backbone: PromptedBackbone, num_tokens: int, rounds: int) -> dict[str, list[float]]:
    """
    Return the seconds of every variant in each of *rounds*; one more round warms up.

    On a CPU, processor time is measured, so that other processes do not count.
    """
    is_gpu = backbone.device.type == "cuda"
    clock = time.perf_counter if is_gpu else time.process_time
    ways = sides(backbone, made_up(backbone, num_tokens))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = clock()
            way()
            if is_gpu:
                torch.cuda.synchronize()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--backbone")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args(arguments)
    backbone = PromptedBackbone(ensure(asked.backbone).path)
    seconds = compare(backbone, asked.tokens, asked.rounds)
    for name, taken in seconds.items():
        ratios = [p / t for p, t in zip(seconds["plain"], taken, strict=True)]
        speed = asked.tokens / median(taken)
        print(  # noqa: T201  the command prints its result
            f"{name:<13} {speed:8.0f} text tokens/s, {median(ratios):.0%} of plain"
            f" ({min(ratios):.0%} to {max(ratios):.0%} over {asked.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
