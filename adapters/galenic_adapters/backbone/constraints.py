"""
Compiles a task's constraint for a backbone's vocabulary, for decoding outside vLLM.

Uses xgrammar, as vLLM does.
"""

from functools import lru_cache
from typing import Any

import torch
import xgrammar
from torch import Tensor

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Choice, Constraint, Grammar


class Constrainer:
    """Compiles constraints for one tokenizer, each of them once."""

    def __init__(self, tokenizer: Any, vocab_size: int, end_tokens: list[int]) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocab_size, stop_token_ids=end_tokens
        )
        self._compiler = xgrammar.GrammarCompiler(info)
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)
        self._compile = lru_cache(maxsize=256)(self._compile_uncached)

    def begin(self, constraint: Constraint) -> xgrammar.GrammarMatcher:
        """Return a fresh matcher; raises `BadInput` if the constraint does not compile."""
        return xgrammar.GrammarMatcher(self._compile(constraint))

    def mask(self, logits_V: Tensor, matcher: xgrammar.GrammarMatcher) -> Tensor:
        """Return *logits_V* with minus infinity at every token that the constraint forbids now."""
        matcher.fill_next_token_bitmask(self._bitmask)
        allowed_1V = logits_V.clone()[None]
        xgrammar.apply_token_bitmask_inplace(allowed_1V, self._bitmask)
        return allowed_1V[0]

    def _compile_uncached(self, constraint: Constraint) -> xgrammar.CompiledGrammar:
        try:
            if isinstance(constraint, Choice):
                return self._compiler.compile_grammar(choice_grammar(constraint))
            if isinstance(constraint, Grammar):
                return self._compiler.compile_grammar(constraint.ebnf)
            return self._compiler.compile_json_schema(constraint.schema)
        except RuntimeError as e:  # xgrammar raises it for text that is no grammar
            raise BadInput("constraint", "does not compile to a grammar") from e


def choice_grammar(choice: Choice) -> str:
    """Return the GBNF grammar whose sentences are the labels."""
    quoted = (label.replace("\\", "\\\\").replace('"', '\\"') for label in choice.labels)
    return "root ::= " + " | ".join(f'"{label}"' for label in quoted)


def logprob_of(logits_V: Tensor, token: int) -> float:
    """Return the log-probability of *token* in nats."""
    return float(torch.log_softmax(logits_V.float(), dim=-1)[token])
