"""Virtual rows are the composed prompt, and text rows are the backbone's own."""

import pytest
import torch
from torch import nn

from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_server.engine.slots import Place, Seated
from galenic_server.engine.vllm.embedding import Layout, PromptedEmbedding
from galenic_server.engine.vllm.worker import (
    MESSAGE_BYTES,
    PromptWorker,
    messages,
    pack_factors,
    pack_metaprompt,
)

V, P, D = 100, 8, 32


class Worker(PromptWorker):
    """What vLLM makes of the extension: a worker with a runner with a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model_runner = self
        self.model = model

    def get_model(self) -> nn.Module:
        return self.model


@pytest.fixture
def made() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def metaprompt(made) -> Metaprompt:
    return Metaprompt(torch.randn(P, D, generator=made))


def random_factor(rank: int, made: torch.Generator) -> Factor:
    return Factor(torch.randn(P, rank, generator=made), torch.randn(rank, D, generator=made))


def embedding(dtype: torch.dtype = torch.float32) -> PromptedEmbedding:
    layout = Layout(num_positions=P, num_slots=4, num_components=12, max_rank=8)
    base = nn.Embedding(V, D, dtype=dtype)
    return PromptedEmbedding(base, layout, vocab_size=V, width=D, dtype=dtype)


class TestPromptedEmbedding:
    def test_a_virtual_id_is_a_row_of_the_composed_prompt(self, made, metaprompt):
        """
        Ranks 1, 3 and 8 side by side, in any order of ids, and text between them.
        """
        embed = embedding()
        factors = [random_factor(rank, made) for rank in (1, 3, 8)]
        places = [Place(2, (5,)), Place(0, (1, 12, 7)), Place(3, (2, 3, 4, 6, 8, 9, 10, 11))]
        seated = [Seated("", *one) for one in zip(places, factors, strict=True)]
        worker = Worker(nn.Sequential(embed))
        worker.load_prompts(pack_metaprompt(metaprompt))
        worker.load_prompts(pack_factors(seated, torch.float32))

        for one in seated:
            ids = list(embed.layout.virtual_ids(V, one.place.slot))
            rows = embed(torch.tensor([3, *reversed(ids), 99], dtype=torch.int32))

            torch.testing.assert_close(rows[1:-1].flip(0), compose(metaprompt, one.adapter))
            assert torch.equal(rows[[0, -1]], embed.base(torch.tensor([3, 99])))

    def test_a_lower_rank_in_a_used_slot_leaves_nothing_of_the_higher(self, made, metaprompt):
        """
        Rank 8 in a slot, then rank 1 in the same: the prompt is the second's alone.
        """
        embed = embedding()
        worker = Worker(embed)
        worker.load_prompts(pack_metaprompt(metaprompt))
        for components in (tuple(range(1, 9)), (9,)):
            factor = random_factor(len(components), made)
            seated = [Seated("", Place(1, components), factor)]
            worker.load_prompts(pack_factors(seated, torch.float32))

        rows = embed(torch.tensor(embed.layout.virtual_ids(V, 1)))
        torch.testing.assert_close(rows, compose(metaprompt, factor))

    def test_sixteen_bits_are_rounded_once_after_composing(self, made, metaprompt):
        """
        Tables hold the factor in 16 bits; the product is made in float32.
        """
        embed = embedding(torch.bfloat16)
        factor = random_factor(4, made)
        rounded = Factor(factor.u_PR.bfloat16(), factor.v_RD.bfloat16())
        worker = Worker(embed)
        worker.load_prompts(pack_metaprompt(metaprompt))
        seated = [Seated("", Place(0, (1, 2, 3, 4)), factor)]
        worker.load_prompts(pack_factors(seated, torch.bfloat16))

        rows = embed(torch.tensor(embed.layout.virtual_ids(V, 0)))
        expected = compose(metaprompt, rounded).bfloat16()
        assert rows.dtype == torch.bfloat16
        torch.testing.assert_close(rows, expected, rtol=2**-8, atol=1e-6)
        assert (rows == expected).float().mean() > 0.99  # sums in another order may round apart

    def test_compiled_it_says_the_same(self, made, metaprompt, monkeypatch):
        """
        A graph composes for every token and rank, eager code for those that there are: same bits.
        """
        embed = embedding(torch.bfloat16)
        worker = Worker(embed)
        worker.load_prompts(pack_metaprompt(metaprompt))
        for slot, rank in enumerate((1, 2, 8)):
            place = Place(slot, tuple(range(1 + slot, 1 + slot + rank)))
            seated = [Seated("", place, random_factor(rank, made))]
            worker.load_prompts(pack_factors(seated, torch.bfloat16))
        batches = [torch.tensor([1, 2]), torch.tensor([1, *embed.layout.virtual_ids(V, 1), 2])]
        batches.append(torch.arange(V, V + 3 * P))
        looked = [embed(ids) for ids in batches]
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        composed = [embed(ids) for ids in batches]

        assert all(map(torch.equal, looked, composed))

    def test_its_weight_goes_by_the_backbones_name(self):
        """
        Checkpoints and tied heads find one parameter, ``weight``, and no table of ours.
        """
        embed = embedding()

        assert ["weight"] == [name for name, _ in embed.named_parameters()]
        assert {"weight", "base.weight"} == set(embed.state_dict())

    def test_messages_are_of_bounded_size(self, made):
        """
        240 factors of ranks 1 to 16 travel in parts of 8 MB that hold each of them once.
        """
        factors = [
            Factor(torch.zeros(100, rank), torch.zeros(rank, 4096)) for rank in (1, 4, 16) * 80
        ]
        seated = [Seated("", Place(i, ()), factor) for i, factor in enumerate(factors)]
        parts = list(messages(seated, torch.bfloat16))

        assert seated == [one for part in parts for one in part]
        sizes = [sum(2 * one.adapter.num_parameters for one in part) for part in parts]
        assert max(sizes) <= MESSAGE_BYTES < sizes[0] + sizes[1]

    @pytest.mark.parametrize("rank", [1, 4, 16])
    @pytest.mark.parametrize(("positions", "width"), [(64, 576), (100, 4096)])
    def test_an_adapter_occupies_hardly_more_than_its_numbers(self, positions, width, rank):
        """
        In 16 bits a full table takes under 1.01 times 2 r (P + D) an adapter, on both backbones.
        """
        num_slots = 64
        layout = Layout(positions, num_slots, num_components=num_slots * rank, max_rank=16)
        base = nn.Embedding(1, width)
        embed = PromptedEmbedding(base, layout, vocab_size=1, width=width, dtype=torch.bfloat16)
        pool = (embed.next_C, embed.u_CP, embed.v_CD)
        tables = embed.first_S.nbytes + sum(table[1:].nbytes for table in pool)

        assert tables / num_slots <= 1.01 * 2 * rank * (positions + width)
