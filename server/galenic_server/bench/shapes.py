"""
Writes a large backbone's configuration and tokenizer without weights, for vLLM's dummy weights.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from galenic_adapters.errors import NotFound

ARCHITECTURES = Path(__file__).parents[3] / "adapters/recipes/architectures"
END = "<|endoftext|>"


def write_shape(name: str, folder: Path) -> str:
    """Write the backbone that the recipe *name* (or file) describes into *folder*; returns it."""
    path = ARCHITECTURES / f"{name}.json"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in ARCHITECTURES.glob("*.json")))
        raise NotFound(f"no shape {name[:80]!r}: it is a file or one of {known}")
    shape = json.loads(path.read_text("utf-8"))
    kind = shape.pop("model_type")
    special = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, **shape | special)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]
    config.save_pretrained(folder)
    _tokenizer(config.vocab_size).save_pretrained(folder)
    return str(folder)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token per byte, and unused ones up to the vocabulary's size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [END, *alphabet, *(f"<{i}>" for i in range(size - len(alphabet) - 1))]
    bytewise = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=END, pad_token=END)
