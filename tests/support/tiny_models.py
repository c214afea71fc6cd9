"""
Tiny random backbones, made on the spot: every architecture at a few kilobytes, and a tokenizer
with a chat template, so that no test needs a hub.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

WIDTH = 64
NUM_POSITIONS = 64
CONTEXT_TOKENS = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the chat's special ones; its end token is ``<|im_end|>``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    bytewise = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(folder: Path, *, tied: bool = False) -> str:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,  # rows that no token has, as many backbones do
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.2,
    )
    return _save(config, tokenizer, folder)


def tiny_gpt_oss(folder: Path) -> str:
    """Two layers, one of them with a sliding window that is shorter than prompt and text."""
    tokenizer = tiny_tokenizer()
    config = _gpt_oss_config(len(tokenizer) + 5, eos_token_id=tokenizer.eos_token_id)
    return _save(config, tokenizer, folder)


def _gpt_oss_config(vocab_size: int, *, eos_token_id: int) -> GptOssConfig:
    return GptOssConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=48,
        max_position_embeddings=CONTEXT_TOKENS,
        eos_token_id=eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.2,
    )


SPECIAL_OF_HARMONY = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
}
VOCABULARY_OF_HARMONY = 200_020


def tiny_harmony(folder: Path, encoding: Path) -> str:
    """A gpt-oss with the vocabulary of Harmony, of which *encoding* is the file."""
    converter = TikTokenConverter(vocab_file=str(encoding))
    converter.extra_special_tokens = [
        SPECIAL_OF_HARMONY.get(id_, f"<|reserved_{id_}|>")
        for id_ in range(199_998, VOCABULARY_OF_HARMONY)
    ]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), eos_token="<|return|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_start|>", "<|start|>").replace(
        "<|im_end|>", "<|end|>"
    )
    config = _gpt_oss_config(VOCABULARY_OF_HARMONY, eos_token_id=200_002)
    return _save(config, tokenizer, folder)


def _save(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
