"""
Loads a package with everything that it takes to answer labelled examples with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from galenic_adapters.backbone.load import load
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.factor import Composed
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.zoo import metaprompts_of
from galenic_adapters.progress import Say
from galenic_adapters.tasks.base import Example, Task
from galenic_adapters.tasks.lookup import make_task


@dataclass(frozen=True, slots=True)
class Subject:
    """Holds a package, composed, with its backbone, its task and examples to answer."""

    package: Package
    model: PromptedBackbone
    composed: Composed
    task: Task[Any, Any]
    examples: Sequence[Example]

    @classmethod
    def load(
        cls,
        package_file: Path,
        data: Path,
        *,
        metaprompt_file: Path | None,
        limit: int | None,
        backbone: str | None,
        say: Say,
    ) -> Self:
        """
        Load *package_file*, and the first *limit* examples of *data* (all if None).

        Without *metaprompt_file*, the zoo's metaprompts are used. Raises `GalenicError` for faulty
        files and for a package of another backbone; data are read before the backbone is loaded.
        """
        package = Package.read(package_file.read_bytes())
        manifest = package.manifest
        examples = read_dataset(data, manifest.task, manifest.labels).examples[:limit]
        source, model = load(backbone, say)
        metaprompts = metaprompts_of(source, [metaprompt_file] if metaprompt_file else [])
        fit = Fit(source, metaprompts, model.shape)
        fit.check(package)
        task = make_task(manifest.task, manifest.labels)
        return cls(package, model, fit.composed(package), task, examples)
