"""
The frozen backbone behind a soft prompt, and the loss that gradients of the prompt come from.

Dimension key:  P prompt positions   D model width   B examples   T text positions   A answer tokens
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from galenic_adapters.training.batches import Batch


class PromptedBackbone:
    """
    A backbone that only ever learns through its prompt.

    All examples of a batch share one prompt, so its keys and values are computed once a batch and
    repeated; a causal model gives the same loss as with the prompt before every example. Only
    positions whose next token is an answer's go through the output head.
    """

    def __init__(self, path: Path | str, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self.model.requires_grad_(False)

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends a turn, the one that training teaches first."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        found = [self.tokenizer.eos_token_id, *listed]
        return list(dict.fromkeys(token for token in found if token is not None))

    @property
    def num_parameters(self) -> int:
        return int(sum(p.numel() for p in self.model.parameters()))

    def embed_text(self, text: str, num_positions: int) -> Tensor:
        """The token vectors (P, D) of *text*, repeated or cut to *num_positions*, in float32."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        ids = (ids * (num_positions // len(ids) + 1))[:num_positions]
        rows: Tensor = self.model.get_input_embeddings()(torch.tensor(ids)).detach().float()
        return rows

    def logits(self, prompt_PD: Tensor, batch: Batch) -> Tensor:
        """The output (A, V) at the answer positions, in float32, differentiable by the prompt."""
        num_examples, num_columns = batch.ids_BT.shape
        num_positions = prompt_PD.shape[0]
        prompt = prompt_PD.to(self.model.dtype)[None]
        cache = self.model.model(inputs_embeds=prompt, use_cache=True).past_key_values
        cache.batch_repeat_interleave(num_examples)
        hidden_BTD = self.model.model(
            input_ids=batch.ids_BT,
            past_key_values=cache,
            position_ids=torch.arange(num_positions, num_positions + num_columns)[None],
            attention_mask=torch.ones(num_examples, num_positions + num_columns),
        ).last_hidden_state
        answers_AD = hidden_BTD.flatten(0, 1)[batch.at_A]
        logits: Tensor = self.model.lm_head(answers_AD).float()
        return logits

    def loss(self, prompt_PD: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the batch's answer tokens, in nats."""
        return functional.cross_entropy(self.logits(prompt_PD, batch), batch.next_A)
