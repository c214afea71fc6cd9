import json

import pytest

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.training.recipe import Phase, Recipe, Source
from tests.support.tiny_models import tiny_llama

DRUGS = ("aspirin", "metformin", "insulin")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from a second one, and lose much where the other core is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def backbone_path(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"), tied=True)


@pytest.fixture(scope="session")
def backbone(backbone_path):
    import torch

    return PromptedBackbone(backbone_path, dtype=torch.float32)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Two small tasks that can be learned: yes or no by the hypothesis, and naming drugs."""
    folder = tmp_path_factory.mktemp("data")
    nli = [
        {"id": str(i), "premise": f"{d} helps", "hypothesis": h, "label": label}
        for i, (d, h, label) in enumerate(
            (d, h, label) for d in DRUGS for h, label in (("true", "yes"), ("false", "no"))
        )
    ]
    ner = [
        {
            "id": d,
            "text": f"took {d}",
            "entities": [{"start": 5, "end": 5 + len(d), "type": "Drug"}],
        }
        for d in DRUGS
    ]
    made = []
    for name, rows in (("nli", nli), ("ner", ner)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append(Source(name, name, str(path), str(path), dataset="made-up", licence="CC0-1.0"))
    return tuple(made)


@pytest.fixture
def recipe(sources):
    learn = Phase(num_steps=30, lr=0.1, lr_shared=0.03, rows_per_source=3, dev_every=10)
    return Recipe(sources, learn, form="input", num_positions=8, rank=2)
