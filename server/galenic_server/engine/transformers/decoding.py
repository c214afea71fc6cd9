"""
Decodes one answer token by token on a plain transformers model.

Dimension key:  T tokens   V vocabulary   P prompt positions   D model width   L layers
                W width of keys, or of a place
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from galenic_adapters.backbone.constraints import Constrainer, logprob_of
from galenic_adapters.backbone.scaling import scaled
from galenic_server.engine.contract import Delta, Request, Sampling


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Holds a loaded model with its tokenizer, end tokens and constraint compiler."""

    model: Any
    tokenizer: Any
    end_tokens: frozenset[int]
    constrainer: Constrainer

    @classmethod
    def load(cls, folder: str, dtype: torch.dtype, tokenizer: Any) -> "LoadedModel":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        named = model.generation_config.eos_token_id
        ends = {named} if isinstance(named, int) else set(named or ())
        ends |= {tokenizer.eos_token_id} - {None}
        vocab_size = model.config.get_text_config().vocab_size
        return cls(
            model, tokenizer, frozenset(ends), Constrainer(tokenizer, vocab_size, sorted(ends))
        )


@dataclass(frozen=True, eq=False, slots=True)
class Tuning:
    """
    Holds an adapter in the engine's dtype.

    prompt: ``rows`` (P, D), or ``keys`` and ``values`` (L, P, W).   offsets: scales minus 1 (L, W),
    by place.
    """

    prompt: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_positions(self) -> int:
        return next((tensor.shape[-2] for tensor in self.prompt.values()), 0)

    def cache(self, model: Any) -> DynamicCache:
        """Make a cache with the prompt's keys and values; scales do not act on prompts."""
        cache = DynamicCache()  # one that knew of windows would drop what is before them
        if "rows" in self.prompt:
            model(inputs_embeds=self.prompt["rows"][None], past_key_values=cache, logits_to_keep=1)
        elif self.prompt:
            for layer, kv in enumerate(
                zip(self.prompt["keys"], self.prompt["values"], strict=True)
            ):
                cache.update(*(_by_head(x, model.config.num_key_value_heads) for x in kv), layer)
        return cache


def _by_head(x_PW: Tensor, num_heads: int) -> Tensor:
    return x_PW.view(len(x_PW), num_heads, -1).transpose(0, 1)[None]


class Decoding:
    """Decodes one request; call `step` until *finish* is set."""

    def __init__(self, backbone: LoadedModel, request: Request, tuning: Tuning) -> None:
        self.finish: str | None = None
        self._backbone = backbone
        self._request = request
        self._tuning = tuning
        self._text = _Text(backbone.tokenizer, request)
        self._matcher = None
        if request.constraint is not None:
            self._matcher = backbone.constrainer.begin(request.constraint)
        self._random = torch.Generator()
        self._random.seed() if request.sampling.seed is None else self._random.manual_seed(
            request.sampling.seed
        )
        self._penalties = Penalties(request)
        self._cache: DynamicCache | None = None
        self._token: int | None = None
        self._num_tokens = 0

    @torch.inference_mode()
    def step(self) -> Delta:
        """Generate the next token; returns the text that is certain after it."""
        logits_V = self._logits()
        if self._matcher is not None:
            logits_V = self._backbone.constrainer.mask(logits_V, self._matcher)
        self._token = pick(self._penalties(logits_V), self._request.sampling, self._random)
        self._penalties.add(self._token)
        if self._matcher is not None:
            self._matcher.accept_token(self._token)
        self._num_tokens += 1
        self.finish = self._ending(self._token)
        return Delta(
            text=self._text.take(is_last=self.finish is not None),
            num_tokens=1,
            finish=self.finish,
            num_prompt_tokens=len(self._request.text_ids),
            logprobs=self._logprobs(logits_V, self._token),
        )

    def _logprobs(self, logits_V: Tensor, token: int) -> list[tuple[str, float]]:
        if not self._request.sampling.with_logprobs:
            return []
        return [(self._backbone.tokenizer.decode([token]), logprob_of(logits_V, token))]

    def _logits(self) -> Tensor:
        model, offsets = self._backbone.model, self._tuning.offsets
        if self._cache is None:
            self._cache = self._tuning.cache(model)
        with scaled(model, tuple(offsets), lambda place, layer: offsets[place][layer, None]):
            output = model(
                inputs_embeds=self._embeds()[None], past_key_values=self._cache, logits_to_keep=1
            )
        return output.logits[0, -1].float()

    def _embeds(self) -> Tensor:
        """Embed the tokens that the model has not read yet: the text, or the last token."""
        ids = self._request.text_ids if self._token is None else [self._token]
        embeds_TD: Tensor = self._backbone.model.get_input_embeddings()(torch.tensor(ids))
        return embeds_TD

    def _ending(self, token: int) -> str | None:
        sampling = self._request.sampling
        if token in self._backbone.end_tokens and not sampling.ignore_end:
            return "stop"
        if self._text.add(token):
            return "stop"
        return "length" if self._num_tokens == sampling.max_tokens else None


def pick(logits_V: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """Return the likeliest token, or sample from the smallest set with probability *top_p*."""
    if not sampling.temperature:
        return int(logits_V.argmax())
    probs_V, order_V = (logits_V / sampling.temperature).softmax(-1).sort(descending=True)
    probs_V[probs_V.cumsum(-1) - probs_V >= sampling.top_p] = 0
    return int(order_V[torch.multinomial(probs_V, 1, generator=random)])


class Penalties:
    """
    Applies OpenAI's presence and frequency penalties, which count generated tokens, and the
    repetition penalty (arXiv 1909.05858), which counts the text too. The adapter's prompt has no
    tokens, so it is never counted.
    """

    def __init__(self, request: Request) -> None:
        self._sampling = request.sampling
        self._text = set(request.text_ids)
        self._generated: Counter[int] = Counter()

    def add(self, token: int) -> None:
        self._generated[token] += 1

    def __call__(self, logits_V: Tensor) -> Tensor:
        sampling, penalized_V = self._sampling, logits_V.clone()
        if sampling.repetition_penalty != 1.0:
            seen = list(self._text | self._generated.keys())
            factor = sampling.repetition_penalty
            at = penalized_V[seen]
            penalized_V[seen] = torch.where(at > 0, at / factor, at * factor)
        for token, count in self._generated.items():
            penalized_V[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        return penalized_V


class _Text:
    """Detokenizes incrementally, and holds back text that may be the start of a stop string."""

    def __init__(self, tokenizer: Any, request: Request) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(ids=list(request.text_ids), skip_special_tokens=True)
        self._stop = request.sampling.stop
        self._held_back = max((len(stop) for stop in self._stop), default=1) - 1
        self._text = ""
        self._num_taken = 0

    def add(self, token: int) -> bool:
        """Add a token; returns whether a stop string is complete, before which the text ends."""
        before = len(self._text)
        self._text += self._stream.step(self._tokenizer, token) or ""
        window = max(0, before - self._held_back)
        found = [at for stop in self._stop if (at := self._text.find(stop, window)) >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def take(self, *, is_last: bool) -> str:
        held_back = 0 if is_last else self._held_back
        end = max(self._num_taken, len(self._text) - held_back)
        taken, self._num_taken = self._text[self._num_taken : end], end
        return taken
