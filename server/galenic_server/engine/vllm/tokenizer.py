"""
The backbone's tokenizer, as vLLM sees it: it lets virtual ids through.

vLLM refuses ids above ``max_token_id``. Every id that reaches it is ours: `Bounds` has refused any
outside the vocabulary that a caller sent.
"""

from typing import Any

from vllm.tokenizers.hf import CachedHfTokenizer

MAX_VIRTUAL_ID = 2**31 - 1  # vLLM keeps ids as int32


class PromptedTokenizer(CachedHfTokenizer):
    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        tokenizer = CachedHfTokenizer.from_pretrained(*args, **kwargs)
        return _let_virtual_ids_through(tokenizer)


def _let_virtual_ids_through(tokenizer: Any) -> Any:
    class Prompted(type(tokenizer)):  # type: ignore[misc]  # the loaded one's class
        @property
        def max_token_id(self) -> int:
            return MAX_VIRTUAL_ID

        def __reduce__(self) -> Any:
            rebuild, args = super().__reduce__()
            return _rebuild, (rebuild, args)

    Prompted.__name__ = type(tokenizer).__name__
    tokenizer.__class__ = Prompted
    return tokenizer


def _rebuild(rebuild: Any, args: Any) -> Any:
    return _let_virtual_ids_through(rebuild(*args))
