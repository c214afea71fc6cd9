"""Adapters of every form, PEFT's and ours, over two metaprompts, side by side on one server."""

from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.weights import shape_at
from galenic_adapters.evaluation.decode import answer_all
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import Package, write_metaprompt
from galenic_adapters.package.peft_read import import_adapter, read_checkpoint
from galenic_adapters.tasks.base import Example
from galenic_adapters.tasks.nli import Nli, NliFields
from tests.support.serving import BACKBONE, Running, make_parts, package, serving
from tests.support.tiny_models import WIDTH

LABELS = ("entailment", "contradiction", "neutral")
NLI = Nli(LABELS)
TEXTS = {"premise": "He has gout.", "hypothesis": "He is ill."}
OTHER = Metaprompt(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(8)))
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 6}
CONFIGS = {
    "prompt": peft.PromptTuningConfig(**PROMPT),
    "p-tuning": peft.PromptEncoderConfig(**PROMPT),
    "multitask": peft.MultitaskPromptTuningConfig(**PROMPT, num_tasks=2, num_ranks=3),
    "prefix": peft.PrefixTuningConfig(**PROMPT),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
}


def imported(backbone: str, folder: Path, config: peft.PeftConfig) -> Package:
    """What PEFT makes of *config*, far from where it starts it, as an adapter of ours."""
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    tuned = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    tuned.save_pretrained(folder)
    checkpoint = read_checkpoint(folder, shape_at(Path(backbone)))
    return import_adapter(checkpoint, name="x", task="nli", labels=LABELS, backbone=BACKBONE)


def over_the_other() -> Package:
    made = torch.Generator().manual_seed(3)
    factor = Factor(torch.randn(5, 2, generator=made), torch.randn(2, WIDTH, generator=made))
    base = package("nli", LABELS)
    changes = {"metaprompt": OTHER.digest, "shapes": factor.shapes}
    return Package.write(base.manifest.model_copy(update=changes), factor)


@pytest.fixture(scope="module")
def packages(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    from_peft = {
        name: imported(backbone, tmp_path_factory.mktemp("peft"), config)
        for name, config in CONFIGS.items()
    }
    ours = {"ours": package("nli", LABELS), "over-the-other": over_the_other()}
    return from_peft | ours


@pytest.fixture(scope="module")
def server(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that scales where (IA)³ does, with a second metaprompt."""
    home = tmp_path_factory.mktemp("home")
    (home / "other.safetensors").write_bytes(write_metaprompt(OTHER))
    parts = make_parts(backbone, home, places="kvof", metaprompt=home / "other.safetensors")
    with serving(parts) as running:
        yield running


class TestAdaptersOfEveryForm:
    def test_answer_side_by_side_as_the_reference(
        self, server: Running, packages: dict[str, Package], backbone: str
    ):
        """
        Each says what its own factor makes of the backbone, as probable, and no two the same.
        """
        for name, one in packages.items():
            server.publish("clinic", name, one)
        reference = PromptedBackbone(backbone, dtype=torch.float32)
        example = Example("1", NliFields(**TEXTS), LABELS[0])
        told = {}

        for name, one in packages.items():
            body = {"documents": [TEXTS], "adapter": name}
            reply = server.client("clinic").post("/v1/nli", json=body)
            assert 200 == reply.status_code, reply.text
            [document] = reply.json()["documents"]
            composed = server.parts.service.fit.composed(one)
            [expected] = answer_all(reference, composed, NLI, [example])
            read = NLI.read(expected, example.fields)
            assert read.value == document["label"]
            assert read.confidence == pytest.approx(document["confidence"], abs=1e-4)
            told[name] = document["confidence"]

        assert len(packages) == len(set(told.values()))

    def test_at_a_place_that_is_not_scaled_are_refused_by_name(
        self, running: Running, packages: dict[str, Package]
    ):
        """
        The setting that would serve them is named too.
        """
        reply = running.admin.put(
            "/admin/v1/adapters/ia3?tenant=clinic",
            content=packages["ia3"].data,
            headers={"content-type": "application/octet-stream"},
        )

        problem = "has no place: this server scales o, f; GALENIC_PLACES"
        faults = [(f"tensors.scales.{place}", problem) for place in "kv"]
        assert 422 == reply.status_code
        told = reply.json()["error"]["faults"]
        assert sorted(faults) == sorted((one["path"], one["problem"]) for one in told)

    def test_are_refused_by_name_where_a_later_start_does_not_scale_that_place(
        self, backbone: str, tmp_path: Path, packages: dict[str, Package]
    ):
        """
        They stay in the store, for a server that does.
        """
        with serving(make_parts(backbone, tmp_path, places="kvof")) as server:
            server.publish("clinic", "ia3", packages["ia3"])
        with serving(make_parts(backbone, tmp_path)) as server:
            body = {"documents": [TEXTS], "adapter": "ia3"}
            reply = server.client("clinic").post("/v1/nli", json=body)

        told = "ia3@1 tensors.scales.k has no place: this server scales o, f; GALENIC_PLACES"
        assert (422, True) == (reply.status_code, told in reply.text)
