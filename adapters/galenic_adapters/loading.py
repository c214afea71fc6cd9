"""
A backbone by its name, loaded to be prompted.
"""

from collections.abc import Callable

from galenic_adapters.backbone import Backbone, ensure
from galenic_adapters.manifest import BackboneId
from galenic_adapters.prompted import PromptedBackbone

Say = Callable[[str], None]


def load(
    backbone: str | None, say: Say, *, checkpointing: bool = False
) -> tuple[BackboneId, PromptedBackbone]:
    found: Backbone = ensure(backbone, say)
    name = BackboneId(name=found.name, revision=found.revision)
    return name, PromptedBackbone(found.path, checkpointing=checkpointing)
