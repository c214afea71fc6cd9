"""
Writes scores into a package's manifest, and renders its model card.
"""

from pathlib import Path

from galenic_adapters.evaluation.scores import Scores
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import Manifest, Score


def scored(
    package: Package,
    dataset: str,
    split: str,
    tuned: Scores,
    *,
    untuned: Scores | None,
    constant: Scores | None,
) -> Package:
    """Return *package* with these scores; earlier ones on the same split are replaced."""
    kept = [s for s in package.manifest.scores if (s.dataset, s.split) != (dataset, split)]
    new = [
        Score(
            dataset=dataset,
            split=split,
            metric=metric,
            value=round(value, 4),
            untuned=round(untuned.metrics[metric], 4) if untuned else None,
            constant=round(constant.metrics[metric], 4) if constant else None,
            num_examples=tuned.num_examples,
        )
        for metric, value in tuned.metrics.items()
    ]
    fields = package.manifest.model_dump() | {"scores": (*kept, *new)}
    return Package.write(Manifest.model_validate(fields), package.factor)


def write_with_card(package: Package, path: Path) -> None:
    """Write *package* to *path*, and its card beside it."""
    path.write_bytes(package.data)
    path.with_suffix(".md").write_text(model_card(package), "utf-8")


def model_card(package: Package) -> str:
    """Render the package's manifest as Markdown."""
    m = package.manifest
    rows = [
        f"| {s.dataset} | {s.split} | {s.num_examples} | {s.metric} | {s.value:.3f}"
        f" | {'not measured' if s.untuned is None else f'{s.untuned:.3f}'}"
        f" | {'-' if s.constant is None else f'{s.constant:.3f}'} |"
        for s in m.scores
    ]
    trained = ", ".join(f"{t.dataset} (licence: {t.licence})" for t in m.trained_on)
    return "\n".join(
        [
            f"# {m.name}",
            "",
            f"A factor for **{m.task}** that acts on {_acts_on(m)},",
            f"for {m.backbone.name} (weights `{m.backbone.revision}`).",
            f"{m.num_parameters:,} parameters, {len(package.data):,} bytes.",
            "",
            f"- Labels: {', '.join(m.labels) or 'none; the answer is free text or an option'}",
            f"- Trained on: {trained}. {m.description}",
            *_confidences(m),
            f"- Licence of the factor: {m.licence}",
            f"- Package: `{package.digest}`",
            "",
            "| data set | split | examples | metric | this adapter | untuned | constant |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Untuned: the backbone alone. Both answer the same examples greedily, under the same",
            "instruction and constraint. Constant: the one label that scores best if always given;",
            "there is none (-) where answers are no labels.",
            "Not a medical device: a small model, often wrong; for research and engineering.",
            "",
        ]
    )


def _confidences(manifest: Manifest) -> list[str]:
    if (found := manifest.calibration) is None:
        return []
    fitted = f"{found.num_answers} answers to {found.dataset} {found.split}"
    errors = f"mean squared error {found.brier:.3f}, {found.brier_before:.3f} before"
    return [f"- Confidences are calibrated on {fitted}: {errors}."]


def _acts_on(manifest: Manifest) -> str:
    """Describe the places where the adapter acts, and the metaprompt that it needs."""
    by_form = {
        "input": f"the input (rank {manifest.rank})" if manifest.rank else "the input",
        "deep": "keys and values of every layer",
        "scales": "activations of every layer",
    }
    acts = " and ".join(by_form[form] for form in manifest.forms)
    over = f", over metaprompt `{manifest.metaprompt[:19]}…`" if manifest.metaprompt else ""
    return acts + over
