"""
The peer's adapters are PEFT's, over all linear layers.
"""

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from galenic_server.bench.lora import linear_layers, write_loras


@pytest.mark.parametrize("rank", [8, 16])
def test_loads_in_peft(llama: Path, tmp_path: Path, rank: int):
    """
    PEFT finds a matrix for every linear layer of every block, and none that it does not know.
    """
    one, two = write_loras(tmp_path, str(llama), count=2, rank=rank, seed=0)
    base = AutoModelForCausalLM.from_pretrained(llama)

    loaded = PeftModel.from_pretrained(base, str(one))
    names = [name for name, _ in loaded.named_parameters() if "lora_A" in name]

    assert 2 * 7 == len(names) == len(linear_layers(str(llama)))
    assert {rank} == {p.shape[0] for n, p in loaded.named_parameters() if "lora_A" in n}
    assert any(p.abs().sum() > 0 for n, p in loaded.named_parameters() if "lora_B" in n)
    first, second = (it / "adapter_model.safetensors" for it in (one, two))
    assert first.read_bytes() != second.read_bytes()
