"""The adapters that come with a backbone."""

from pathlib import Path

import pytest
import torch

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.file import Fit, write_metaprompt
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import folder_of, metaprompt_of, metaprompts_of
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_adapters.shape import BackboneShape
from galenic_server.registry.store import Store
from galenic_server.registry.zoo import Sharing
from tests.support.serving import BACKBONE, metaprompt, package
from tests.support.tiny_models import WIDTH

OTHER = BackboneId(name="meta/Other-8B", revision="1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path}/galenic.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo" / "tiny-llama"
    folder.mkdir(parents=True)
    (folder / "metaprompt.safetensors").write_bytes(write_metaprompt(metaprompt()))
    (folder / "diseases.safetensors").write_bytes(package().data)
    return folder


def fit(backbone: BackboneId) -> Fit:
    shared = metaprompt()
    sizes = BackboneShape(num_layers=2, width=64, attention=64, keys=32, inner=128)
    return Fit(backbone, {shared.digest: shared}, sizes, max_rank=16)


def share(store: Store, folder: Path, backbone: BackboneId = BACKBONE) -> list[AdapterRef]:
    return Sharing(store.versions, store.aliases, fit(backbone)).share(folder, lambda text: None)


class TestSharing:
    def test_publishes_once_and_names_the_default(self, store: Store, folder: Path):
        """
        A second start changes nothing.
        """
        diseases = AdapterRef(SHARED, "diseases", 1)

        assert [diseases] == share(store, folder)
        assert [] == share(store, folder)
        assert diseases == store.aliases.get(SHARED, "ner").ref

    def test_moves_the_default_to_a_newer_version_of_the_same(self, store: Store, folder: Path):
        """
        An upgrade of Galenic upgrades what is asked by default.
        """
        share(store, folder)
        (folder / "diseases.safetensors").write_bytes(package(seed=1).data)

        assert [AdapterRef(SHARED, "diseases", 2)] == share(store, folder)
        assert 2 == store.aliases.get(SHARED, "ner").ref.version

    def test_the_listed_adapter_is_its_tasks_default(self, store: Store, folder: Path):
        """
        The names of the others do not matter.
        """
        (folder / "a-first.safetensors").write_bytes(package(seed=3).data)
        (folder / "defaults.json").write_text('["diseases"]')
        share(store, folder)

        assert "diseases" == store.aliases.get(SHARED, "ner").ref.name

    def test_leaves_a_default_that_an_admin_has_set(self, store: Store, folder: Path):
        """
        It stays even if the zoo has another adapter for the task.
        """
        chosen = store.versions.publish(SHARED, "chosen", package(seed=2))
        store.aliases.move(SHARED, "ner", chosen)
        share(store, folder)

        assert chosen == store.aliases.get(SHARED, "ner").ref

    def test_replaces_a_default_of_another_backbone(self, store: Store, folder: Path):
        """
        Its answers would mean nothing here; on the way back it is replaced again.
        """
        share(store, folder)
        others = folder.parent / "other-8b"
        others.mkdir()
        (others / "diseases.safetensors").write_bytes(package(backbone=OTHER).data)
        defaults = []
        for backbone in (OTHER, BACKBONE):
            share(store, folder_of(folder.parent, backbone), backbone)
            defaults.append(
                store.versions.describe(store.aliases.get(SHARED, "ner").ref).manifest.backbone
            )

        assert [OTHER, BACKBONE] == defaults

    def test_leaves_out_what_does_not_fit_and_says_so(self, store: Store, folder: Path):
        """
        The server starts with the rest.
        """
        (folder / "broken.safetensors").write_bytes(b"\x80\x04K\x01.")
        said: list[str] = []
        new = Sharing(store.versions, store.aliases, fit(BACKBONE)).share(folder, said.append)

        assert [AdapterRef(SHARED, "diseases", 1)] == new
        assert "broken.safetensors is left out" in said[0]


class TestTheMetaprompt:
    def test_is_the_zoos_unless_another_is_given(self, folder: Path, tmp_path: Path):
        """
        A file gives another.
        """
        other = Metaprompt(torch.ones(2, WIDTH))
        given = tmp_path / "other.safetensors"
        given.write_bytes(write_metaprompt(other))

        assert metaprompt().digest == metaprompt_of(BACKBONE, zoo=folder.parent).digest
        assert other.digest == metaprompt_of(BACKBONE, given, zoo=folder.parent).digest

    def test_of_an_earlier_zoo_stands_beside_it(self, store: Store, folder: Path):
        """
        Those that an operator names stand beside both; none of them is taken for an adapter.
        """
        earlier, given = (Metaprompt(torch.full((2, WIDTH), n)) for n in (1.0, 2.0))
        (folder / "metaprompt-2026.safetensors").write_bytes(write_metaprompt(earlier))
        named = folder.parent / "given.safetensors"
        named.write_bytes(write_metaprompt(given))
        said: list[str] = []
        Sharing(store.versions, store.aliases, fit(BACKBONE)).share(folder, said.append)

        found = metaprompts_of(BACKBONE, [named], zoo=folder.parent)

        assert {one.digest for one in (metaprompt(), earlier, given)} == set(found)
        assert {} == metaprompts_of(OTHER, zoo=folder.parent)
        assert metaprompt().digest == metaprompt_of(BACKBONE, zoo=folder.parent).digest
        assert [] == said

    def test_of_a_backbone_without_a_zoo_has_to_be_given(self, folder: Path):
        """
        The error says how.
        """
        with pytest.raises(NotFound, match="makes one for meta/Other-8B@1"):
            metaprompt_of(OTHER, zoo=folder.parent)
