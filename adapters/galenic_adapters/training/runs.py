"""
Runs the commands ``galenic train`` and ``galenic adapt``, from data to packages.
"""

from pathlib import Path

from galenic_adapters.backbone.load import load
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.data.examples import Dataset, num_over_line_ends, read_dataset, unsayable
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import ZOO, folder_of, metaprompt_of
from galenic_adapters.progress import Say
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.lookup import make_task
from galenic_adapters.training.datasets import Course, prepare
from galenic_adapters.training.init import Earlier, known_in, start_factor
from galenic_adapters.training.metaprompt import claim, digest_of, inputs_of, learn_sources
from galenic_adapters.training.modules import ones_of
from galenic_adapters.training.publish import check_claims, publish_factor, publish_metaprompt
from galenic_adapters.training.recipe import Recipe, Source
from galenic_adapters.training.targets import learn_targets

STARTS = ("ones", "mean", "task", "nearest")
MOST_SHARE = 0.0005
"""The largest share of the backbone's parameters that a task should learn (arXiv 2604.06650)."""
NUM_JUDGED = 60
"""Dev examples of a task that are answered and scored in a dev evaluation."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    data: Path = Path(),
    start: Path | None = None,
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """
    Train a metaprompt with a factor for every source, and write all of them into *folder*.

    With *start*, training continues from the metaprompt and the factors in that folder.
    """
    _read(recipe, data)
    source, model = load(backbone or recipe.backbone, say, checkpointing=recipe.checkpointing)
    earlier = Earlier.of(start, source) if start else None
    learner, courses = learn_sources(recipe, model, folder, data=data, earlier=earlier)
    metaprompt = publish_metaprompt(learner, folder)
    how = f"With its metaprompt in {recipe.learn.num_steps} steps, seed {recipe.seed}"
    how += ", from a teacher" if recipe.distil else ""
    how += f", from metaprompt {earlier.metaprompt.digest}" if earlier else ""
    for which, course in enumerate(courses):
        publish_factor(
            learner.factor(which),
            course,
            folder,
            metaprompt=metaprompt,
            backbone=source,
            how=how,
            licence=recipe.licence,
        )
    say(f"metaprompt {metaprompt.digest} and {len(courses)} adapters are in {folder}")


def adapt(
    recipe: Recipe,
    folder: Path,
    metaprompt_file: Path | None = None,
    *,
    start: str = "nearest",
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """
    Train a factor for every source over a frozen metaprompt, and write its package.

    Without *metaprompt_file*, the zoo's metaprompt is used. Names and data are checked before the
    backbone is loaded.
    """
    for wanted, read in zip(recipe.sources, _read(recipe, fewest=2), strict=True):
        _tell_odd(wanted, read, say)
    claim(folder, recipe, inputs_of(recipe) | _how(start, metaprompt_file, backbone))
    source, model = load(backbone or recipe.backbone, say, checkpointing=recipe.checkpointing)
    metaprompt = metaprompt_of(source, metaprompt_file)
    share = ones_of(metaprompt, recipe.rank).num_parameters / model.num_parameters
    if share > MOST_SHARE:
        say(f"a factor is {share:.3%} of the backbone, more than {MOST_SHARE:.2%}")
    courses = [_course(wanted, recipe, model, say) for wanted in recipe.sources]
    known = metaprompt_file.parent if metaprompt_file else folder_of(ZOO, source)
    starts = [_start(start, known, c, source, model, metaprompt, recipe.rank) for c in courses]
    learner = learn_targets(
        metaprompt,
        starts,
        courses,
        model,
        recipe.learn,
        folder,
        seed=recipe.seed,
        num_judged=NUM_JUDGED,
    )
    how = f"At most {recipe.learn.num_steps} steps, seed {recipe.seed}, started from {start}"
    for which, course in enumerate(courses):
        package = publish_factor(
            learner.factor(which),
            course,
            folder,
            metaprompt=metaprompt,
            backbone=source,
            how=how,
            licence=recipe.licence,
        )
        say(
            f"{course.name}: {learner.num_own():,} parameters, {share:.4%} of the backbone;"
            f" {len(package.data):,} bytes in {folder / course.name}.safetensors"
        )


def _read(recipe: Recipe, data: Path = Path(), *, fewest: int = 1) -> list[Dataset]:
    """Read the sources' data. Raises `BadInput` early for all that training would reject later."""
    found = []
    for source in recipe.sources:
        check_name("name", source.name)
        read = read_dataset(data / source.train, source.task, source.labels)
        if len(read.examples) < fewest:
            problem = f"holds {len(read.examples)} example, at least {fewest} needed"
            raise BadInput(Path(source.train).name, problem)
        labels = source.labels or read.labels
        if source.dev:
            read_dataset(data / source.dev, source.task, labels)
        check_claims(source, labels, recipe.licence)
        found.append(read)
    return found


def _tell_odd(source: Source, read: Dataset, say: Say) -> None:
    """Report examples that the task cannot express as an answer, and spans over line ends."""
    name, examples = Path(source.train).name, read.examples
    odd = unsayable(make_task(source.task, source.labels or read.labels), examples)
    for id_, what in list(odd.items())[:3]:
        say(f"{name}: example {id_[:80]}: {what}")
    if len(odd) > 3:
        say(f"... and {len(odd) - 3} examples more like these, of {len(examples)}")
    if number := num_over_line_ends(examples):
        say(f"{name}: {number} entities run over a line end; they are taught with a space there")


def _how(start: str, metaprompt_file: Path | None, backbone: str | None) -> dict[str, str]:
    """Return what an adaptation depends on beside its recipe and data, for `claim`."""
    return {
        "start": start if start in STARTS else digest_of(Path(start)),
        "metaprompt": digest_of(metaprompt_file) if metaprompt_file else "the zoo's",
        "backbone": backbone or "the default",
    }


def _course(source: Source, recipe: Recipe, model: PromptedBackbone, say: Say) -> Course:
    course = prepare(
        source,
        model.tokenizer,
        max_text_tokens=recipe.max_text_tokens,
        max_dev_examples=recipe.max_dev_examples,
        hold_out=True,
    )
    say(
        f"{source.name}: {len(course.train)} examples to learn from, {len(course.dev)} to choose by"
        + (f", {course.num_left_out} too long" if course.num_left_out else "")
    )
    return course


def _start(
    how: str,
    known: Path,
    course: Course,
    source: BackboneId,
    model: PromptedBackbone,
    metaprompt: Metaprompt,
    rank: int,
) -> Factor:
    """Return the initial factor that *how* names: a word of `start_factor` or a package's path."""
    if how not in STARTS:
        package = Package.read(Path(how).read_bytes())
        Fit(source, {metaprompt.digest: metaprompt}, model.shape, max_rank=rank).check(package)
        return package.factor
    others = [k for k in known_in(known, source, metaprompt) if not k.has_seen(course)]
    if not others:
        how = "ones"  # a metaprompt file may lie in a folder without factors
    return start_factor(how, others, course, model, metaprompt, rank)
