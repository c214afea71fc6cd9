"""
Writes random LoRA adapters in PEFT's format, over every linear layer of a backbone.

Dimension key:  I features in   O features out   R rank
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM


def write_loras(folder: Path, backbone: str, *, count: int, rank: int, seed: int) -> list[Path]:
    """Write *count* different adapters, and return their folders."""
    layers = linear_layers(backbone)
    rng = torch.Generator().manual_seed(seed)
    return [_write(folder / f"lora-{i}", layers, rank, rng) for i in range(count)]


def linear_layers(backbone: str) -> dict[str, tuple[int, int]]:
    """Return (I, O) of all linear layers but the head, by name; no weights are read."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(backbone))
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and "router" not in name
    }


def _write(
    folder: Path, layers: dict[str, tuple[int, int]], rank: int, rng: torch.Generator
) -> Path:
    tensors = {}
    for name, (wide, out) in layers.items():
        at = f"base_model.model.{name}"
        tensors[f"{at}.lora_A.weight"] = (torch.randn(rank, wide, generator=rng) * 0.01).bfloat16()
        tensors[f"{at}.lora_B.weight"] = (torch.randn(out, rank, generator=rng) * 0.01).bfloat16()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
