"""
The recipes for large backbones: each runs, on a tiny random model of its architecture.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.errors import BadInput
from galenic_adapters.package.file import Package, read_metaprompt
from galenic_adapters.study.preset import RECIPES, Preset
from galenic_adapters.training import runs
from galenic_adapters.training.batches import Encoded, Row, collate
from galenic_adapters.training.estimate import (
    MEAN_ANSWER,
    MEAN_TOKENS,
    config_of,
    estimate,
    flops_of,
    kept_bytes,
    num_learned,
    shape_of,
)
from galenic_adapters.training.losses import losses
from galenic_adapters.training.modules import DensePrompts
from galenic_adapters.training.recipe import Phase, Recipe, Source
from tests.support.tiny_models import tiny_tokenizer

LARGE = ("llama-3.1-8b-instruct", "meditron3-8b", "gpt-oss-20b")
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 64,
    "initializer_range": 0.2,
}


def tiny_config(recipe):
    """The recipe's own architecture with every size cut down, and no other field changed."""
    config, tokenizer = config_of(recipe), tiny_tokenizer()
    fields = config.to_dict()
    fields |= {name: size for name, size in TINY.items() if name in fields}
    fields |= {"vocab_size": len(tokenizer) + 5, "bos_token_id": None, "pad_token_id": None}
    fields["eos_token_id"] = tokenizer.eos_token_id
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][:2]
    return type(config).from_dict(fields)


@pytest.fixture(params=LARGE)
def recipe(request):
    return Recipe.load(RECIPES / f"{request.param}.json")


@pytest.fixture
def tiny(recipe, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "tiny"
    AutoModelForCausalLM.from_config(tiny_config(recipe), dtype=torch.bfloat16).save_pretrained(
        folder
    )
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_it_trains_as_written_on_a_tiny_model(recipe, tiny, sources, tmp_path):
    """In bf16, with checkpointing, teachers and distillation; only data and steps are less."""
    small = replace(
        recipe,
        sources=sources,
        teach=replace(recipe.teach, num_steps=2, rows_per_source=2, dev_every=2),
        learn=replace(recipe.learn, num_steps=2, rows_per_source=2, dev_every=2),
    )
    runs.train(small, tmp_path / "run", backbone=str(tiny), say=lambda said: None)

    metaprompt = read_metaprompt((tmp_path / "run" / "metaprompt.safetensors").read_bytes())
    package = Package.read((tmp_path / "run" / "nli.safetensors").read_bytes())
    assert recipe.checkpointing and set(recipe.places) == set(metaprompt.scales)
    assert metaprompt.digest == package.manifest.metaprompt


def test_it_fits_a_data_centre_gpu_and_ends_within_a_day(recipe):
    """By the sizes of its architecture; the paper's share of what learns holds."""
    config = config_of(recipe)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum(p.numel() for p in model.parameters())
    factor = num_learned(recipe, config)

    assert total == {"llama": 8_030_261_248, "gpt_oss": 20_914_757_184}[config.model_type]
    assert factor < 0.0005 * total
    assert 21 == len(recipe.sources)


class TestEstimate:
    @pytest.fixture
    def small(self):
        return replace(
            Recipe.load(RECIPES / "llama-3.1-8b-instruct.json"), architecture="smollm2-135m"
        )

    def test_parameters_are_those_of_the_model(self, small):
        assert 134_515_008 == shape_of(config_of(small)).num_parameters

    def test_flops_are_those_that_torch_counts(self, backbone_path):
        """
        A batch of mean examples through a frozen backbone, there and back; torch does not count
        attention on a CPU, so it is left out.
        """
        backbone = PromptedBackbone(backbone_path, dtype=torch.float32, checkpointing=True)
        learner = DensePrompts(torch.randn(8, backbone.width), ["a"])
        question = tuple(range(5, 5 + MEAN_TOKENS - MEAN_ANSWER))
        batch = collate([Row(0, Encoded(question, tuple([7] * MEAN_ANSWER)))] * 4)
        phase = Phase(num_steps=1, lr=0.1, rows_per_source=4)
        recipe = Recipe(
            (Source("a", "nli", "a"),),
            phase,
            form="input",
            num_positions=8,
            checkpointing=True,
            architecture="smollm2-135m",
        )
        with FlopCounterMode(display=False) as counter:
            losses(backbone, learner, batch).total.backward()

        shape = replace(shape_of(backbone.model.config), attention_width=0)
        expected = flops_of(phase, recipe, shape, is_taught=False)
        assert pytest.approx(counter.get_total_flops(), rel=0.1) == expected

    def test_what_a_layer_keeps_grows_with_its_width(self, backbone):
        config = backbone.model.config
        wide = type(config).from_dict(
            config.to_dict() | {"hidden_size": 128, "intermediate_size": 192, "head_dim": 64}
        )

        assert pytest.approx(2.0, rel=0.15) == kept_bytes(wide) / kept_bytes(config)

    def test_says_what_it_assumes_and_whether_it_fits(self, small):
        lines = list(estimate(small, "A100-80GB", gpus=2, use=0.5).lines())

        assert "0.13 billion parameters, 8192 text tokens a pass, on 2 x A100-80GB" in lines[0]
        assert "at 50% of 312 TFLOP/s" in lines[-1]
        assert any("fits in 80 GB" in line for line in lines)
        with pytest.raises(BadInput, match="gpu: 'abacus' is none of H100"):
            estimate(small, "abacus")


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_presets_are_presets(name):
    preset = Preset.load(name)

    assert preset.target.temperature == preset.few_shot.phase.temperature == 1e9  # even
    assert 0 == preset.few_shot.phase.dev_every  # nothing to choose by
