"""
Finds a backbone by its name and loads it.
"""

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.weights import Backbone, ensure
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.progress import Say


def load(
    backbone: str | None, say: Say, *, checkpointing: bool = False
) -> tuple[BackboneId, PromptedBackbone]:
    found: Backbone = ensure(backbone, say)
    name = BackboneId(name=found.name, revision=found.revision)
    return name, PromptedBackbone(found.path, checkpointing=checkpointing)
