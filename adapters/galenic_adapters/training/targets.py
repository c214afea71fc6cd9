"""
Trains the second half of the method: a new task's factor over a frozen metaprompt.
"""

from collections.abc import Sequence
from pathlib import Path

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Tuning
from galenic_adapters.evaluation.decode import Question, answer
from galenic_adapters.evaluation.scores import score
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.loop import Run
from galenic_adapters.training.modules import FactorLearner, learner_over
from galenic_adapters.training.recipe import Phase


def learn_targets(
    metaprompt: Metaprompt,
    starts: Sequence[Factor],
    courses: Sequence[Course],
    backbone: PromptedBackbone,
    phase: Phase,
    folder: Path,
    *,
    seed: int = 0,
    num_judged: int = 0,
) -> FactorLearner:
    """
    Train factors over *metaprompt*, side by side; each is returned as of its best dev evaluation.

    Best is by the task's score on the first *num_judged* dev examples; with 0, by the dev loss.
    """
    names = [course.name for course in courses]
    learner = learner_over(metaprompt, names, starts, backbone.shape)

    def judge() -> dict[str, float]:
        return dev_scores(learner, courses, backbone, num_judged)

    run = Run(
        learner,
        backbone,
        courses,
        phase,
        folder,
        seed=seed,
        judge=judge if num_judged else None,
    )
    run.finish("factors")
    run.take_best()
    return learner


def dev_scores(
    tuning: Tuning, courses: Sequence[Course], backbone: PromptedBackbone, limit: int
) -> dict[str, float]:
    """Return each task's main metric on its first *limit* dev examples, by name."""
    scores = {}
    for which, course in enumerate(courses):
        if examples := course.dev_examples[:limit]:
            asked = [Question(which, course.task, example) for example in examples]
            texts = answer(backbone, tuning, asked)
            answers = [
                course.task.read(text, e.fields) for text, e in zip(texts, examples, strict=True)
            ]
            scores[course.name] = score(course.task.name, examples, answers).main[1]
    return scores
