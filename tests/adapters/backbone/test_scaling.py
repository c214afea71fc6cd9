"""Scaling an activation is scaling the weights around it, for each example by its own vector."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from galenic_adapters.backbone.scaling import INPUTS, OUTPUTS, scaled, to_offset
from galenic_adapters.backbone.weights import shape_of
from galenic_adapters.shape import PLACES
from tests.support.tiny_models import tiny_gpt_oss, tiny_llama

IDS = torch.tensor([[5, 9, 7, 12], [5, 9, 7, 12], [40, 41, 42, 43]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_gpt_oss(tmp_path_factory.mktemp("gpt_oss"))


def load(folder: Path | str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_offsets(folder: Path | str) -> dict[str, Tensor]:
    """For three examples at every place (B, L, W)."""
    made = torch.Generator().manual_seed(0)
    of = shape_of(AutoConfig.from_pretrained(folder)).scale_shapes()
    return {place: torch.randn(len(IDS), *of[place], generator=made) / 2 for place in PLACES}


def weight_scaled(model, place: str, offset_LW: Tensor):
    """*model* with the scale in its weights."""
    for layer, offset_W in zip(model.model.layers, offset_LW, strict=True):
        module = layer.get_submodule((INPUTS | OUTPUTS)[place])
        scale = 1 + offset_W
        module.weight.data *= scale if place in INPUTS else scale[:, None]
    return model


class TestAScaledModel:
    @pytest.mark.parametrize("place", PLACES)
    def test_says_what_scaled_weights_say(self, llama, place):
        """
        Each example of a batch as a model of its own does.
        """
        offsets, model = random_offsets(llama), load(llama)
        with torch.no_grad(), scaled(model, [place], lambda at, layer: offsets[at][:, layer]):
            logits = model(IDS).logits
        expected = [
            weight_scaled(load(llama), place, offset_LW)(ids[None]).logits[0]
            for ids, offset_LW in zip(IDS, offsets[place], strict=True)
        ]

        torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits[0], logits[1], atol=0.01)

    def test_is_the_bare_one_without_offsets_and_afterwards(self, llama):
        """
        Bit by bit, for an offset of zero, for none, and once the block is left.
        """
        model, zero = load(llama), torch.zeros(1)
        with torch.no_grad():
            bare = model(IDS).logits
            for offset in (None, zero):
                with scaled(model, PLACES, lambda *_, offset=offset: offset):
                    assert torch.equal(bare, model(IDS).logits)
            assert torch.equal(bare, model(IDS).logits)

    def test_gives_gradients_to_each_examples_own(self, llama):
        """
        The second example's loss moves nothing of the others.
        """
        model = load(llama).requires_grad_(False)
        offsets = {place: one.requires_grad_() for place, one in random_offsets(llama).items()}
        with scaled(model, PLACES, lambda place, layer: offsets[place][:, layer]):
            model(IDS).logits[1].logsumexp(-1).sum().backward()

        for offset_BLW in offsets.values():
            assert offset_BLW.grad[1].abs().sum(-1).min() > 0
            assert 0 == offset_BLW.grad[[0, 2]].abs().max()


class TestExperts:
    def test_are_scaled_behind_all_of_them(self, gpt_oss):
        """
        What the feed-forward adds to the stream, times its scale.
        """
        offsets, model, heard = random_offsets(gpt_oss), load(gpt_oss), []
        for layer in model.model.layers[:1]:
            layer.mlp.register_forward_hook(lambda _, __, output: heard.append(output[0]))
        with torch.no_grad(), scaled(model, "f", lambda place, layer: offsets[place][:, layer]):
            layer.mlp.register_forward_hook(lambda _, __, output: heard.append(output[0]))
            model(IDS)
        bare_BTD, scaled_BTD = heard

        torch.testing.assert_close(bare_BTD * (1 + offsets["f"][:, 0, None]), scaled_BTD)

    def test_have_the_other_places_as_well(self, gpt_oss):
        """
        Attention's are scaled like any other model's.
        """
        offsets, model = random_offsets(gpt_oss), load(gpt_oss)
        with torch.no_grad():
            bare = model(IDS).logits
            for place in PLACES:
                with scaled(model, [place], lambda at, layer: offsets[at][:, layer]):
                    assert not torch.allclose(bare, model(IDS).logits, atol=1e-3)


class TestAnOffset:
    def test_keeps_a_scale_finer_than_sixteen_bits_would(self):
        """
        Near one, bfloat16 has steps of 1/128; told from one, of a 256th of the difference.
        """
        scale = torch.linspace(0.9, 1.1, 999)
        kept = 1 + to_offset(scale, torch.bfloat16).float()

        assert (scale - kept).abs().max() <= 0.1 / 256
        assert (scale - scale.bfloat16().float()).abs().max() > 0.1 / 256
