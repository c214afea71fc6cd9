"""
The frozen backbone behind soft prompts, many of them side by side in one batch.

Dimension key:  K prompts   P prompt positions   D model width   B examples   T text positions
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from galenic_adapters.backbone.attention import GROUPED
from galenic_adapters.backbone.constraints import Constrainer
from galenic_adapters.backbone.scaling import Scales, hook_scales, to_offset
from galenic_adapters.backbone.weights import shape_of
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import PLACES, BackboneShape, Composed

MOST_UNFUSED = 1024
"""Tokens of a text whose attention's scores may be held."""
SAMPLED_VOCABULARY = 5000
"""Byte-pair vocabularies begin with the frequent tokens, which arXiv 2104.08691 samples."""


Openings = Mapping[int, Sequence[int]]
"""By task number, the tokens that all its texts begin with."""


def opening_of(texts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """
    What all these texts of a task begin with, an instruction for one. None of them is all opening:
    a text keeps its last token, from which the next is predicted.
    """
    columns = zip(*(text[:-1] for text in texts), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def positions_of(seen_BT: Tensor) -> Tensor:
    """Each column's place among those that its row sees; zero for the empty ones before them."""
    return (seen_BT.cumsum(1) - 1).clamp(min=0)


class Tuning(Protocol):
    """Whatever stands before or acts inside the backbone, for several tasks side by side."""

    def prompts(self, which_K: Tensor) -> Tensor | None:
        """Return the prompts (K, P, D) of these tasks, where tasks differ by a prompt."""

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the keys and values (K, L, P, W) of these tasks' deep prompts, if any."""

    def scales(self, which_B: Tensor) -> Scales | None:
        """Return what these examples' tasks multiply activations by, if they do."""

    def choose(self, which_B: Tensor) -> None:
        """Note that the next batch's examples are of these tasks (for LoRA, whose hooks ask)."""


class Untuned:
    """The bare backbone."""

    def prompts(self, which_K: Tensor) -> Tensor | None:
        return None

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        return None

    def scales(self, which_B: Tensor) -> Scales | None:
        return None

    def choose(self, which_B: Tensor) -> None:
        pass


class Fixed(Untuned):
    """Adapters as they are, of one form and one prompt length; task k is number k of them."""

    def __init__(self, composed: Sequence[Composed]) -> None:
        self._composed = list(composed)

    def prompts(self, which_K: Tensor) -> Tensor | None:
        return self._stacked(which_K, lambda one: one.rows_PD)

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        keys_KLPW = self._stacked(which_K, lambda one: one.prefix and one.prefix[0])
        values_KLPW = self._stacked(which_K, lambda one: one.prefix and one.prefix[1])
        return None if keys_KLPW is None or values_KLPW is None else (keys_KLPW, values_KLPW)

    def scales(self, which_B: Tensor) -> Scales | None:
        made = {
            place: self._stacked(which_B, partial(_scale_of, place))
            for place in self._composed[0].scales
        }
        return {place: scale for place, scale in made.items() if scale is not None}

    def _stacked(self, which: Tensor, part: Callable[[Composed], Tensor | None]) -> Tensor | None:
        tensors = [part(self._composed[number]) for number in which.tolist()]
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(there).to(which.device) if there else None


def _scale_of(place: str, composed: Composed) -> Tensor:
    return composed.scales[place]


class Prefixes:
    """
    The keys and values of what stands before texts, as the model's own cache holds them, for any
    number of batches: each task's prompt and what all its texts begin with.

    which_K: whose they are, in ascending order.   seen_KT: their columns; they end together, and
    the columns before shorter ones stand for nothing.
    """

    def __init__(self, tuning: Tuning, which_K: Tensor, seen_KT: Tensor, cache: Any) -> None:
        self.tuning, self.which_K, self.seen_KT, self._cache = tuning, which_K, seen_KT, cache

    def cache(self, which_B: Tensor) -> Any:
        """What the model goes on from, each example from its task's."""
        cache = _copied(self._cache)
        cache.batch_select_indices(self._at(which_B))
        return cache

    def seen(self, which_B: Tensor) -> Tensor:
        """Which columns (B, T) of that cache each example has before it."""
        return self.seen_KT[self._at(which_B)]

    def _at(self, which_B: Tensor) -> Tensor:
        return torch.searchsorted(self.which_K, which_B)

    def apart(self) -> Self:
        """The same, as leaves at which gradients gather."""
        cache = _copied(self._cache)
        for layer in cache.layers:
            layer.keys = layer.keys.detach().requires_grad_()
            layer.values = layer.values.detach().requires_grad_()
        return type(self)(self.tuning, self.which_K, self.seen_KT, cache)

    def tensors(self) -> list[Tensor]:
        return [one for layer in self._cache.layers for one in (layer.keys, layer.values)]


def _copied(cache: Any) -> Any:
    """A cache of its own with the same tensors, which a model replaces and never writes to."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


class PromptedBackbone:
    """
    A backbone whose own weights never learn.

    Examples of one task share a prompt, so each prompt's keys and values are computed once and
    handed to its examples; a causal model gives the same as with the prompt before every one.
    With *checkpointing* (layers are computed again in the backward pass, for large backbones) the
    prompts do stand before every example.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.device = torch.device(device or best_device())
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **_packing(path))
        self.model.requires_grad_(False)
        self.model.eval().to(self.device)
        self._scales: Scales = {}
        hook_scales(self.model, PLACES, self._offset)
        self.checkpointing = checkpointing
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.train()  # transformers checkpoints in this mode only; nothing here drops out

    @property
    def shares(self) -> bool:
        """Whether examples share what stands before them."""
        return not self.checkpointing

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def shape(self) -> BackboneShape:
        return shape_of(self.model.config)

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    @property
    def has_window(self) -> bool:
        """Whether some layers see the last tokens only, counted in columns, empty ones too."""
        kinds = getattr(self.model.config, "layer_types", None)
        if kinds is None:
            return bool(getattr(self.model.config, "sliding_window", None))
        return "sliding_attention" in kinds

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends a turn, the one that training teaches first."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        found = [self.tokenizer.eos_token_id, *listed]
        return list(dict.fromkeys(token for token in found if token is not None))

    @cached_property
    def constrainer(self) -> Constrainer:
        """Compiles what answers may look like, each constraint once."""
        return Constrainer(self.tokenizer, self.vocab_size, self.end_tokens)

    @property
    def num_parameters(self) -> int:
        return int(sum(p.numel() for p in self.model.parameters()))

    def embed_text(self, text: str, num_positions: int) -> Tensor:
        """The token vectors (P, D) of *text*, repeated or cut to *num_positions*, in float32."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self._embed((ids * (num_positions // len(ids) + 1))[:num_positions])

    def embed_vocabulary(self, num_positions: int, *, seed: int) -> Tensor:
        """The vectors (P, D) of tokens drawn from the vocabulary's most frequent, in float32."""
        special = set(self.tokenizer.all_special_ids)
        ids = [i for i in range(min(SAMPLED_VOCABULARY, self.vocab_size)) if i not in special]
        rng = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(ids), (num_positions,), generator=rng)
        return self._embed([ids[i] for i in drawn.tolist()])

    def _embed(self, ids: list[int]) -> Tensor:
        rows_PD: Tensor = self.model.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return rows_PD.detach().float()

    def prefixes(
        self, tuning: Tuning, which_B: Tensor, openings: Openings | None = None
    ) -> Prefixes | None:
        """
        The prompts of these tasks, each with its opening behind it, run through the backbone; None
        where there is neither.
        """
        which_K = torch.unique(which_B.to(self.device))
        opened = [(openings or {}).get(which, ()) for which in which_K.tolist()]
        rows_KPD, deep = tuning.prompts(which_K), tuning.prefix(which_K)
        if rows_KPD is None and deep is None and not any(opened):
            return None
        embed, dtype = self.model.get_input_embeddings(), self.model.dtype
        rows = [embed(torch.tensor(ids, dtype=torch.long, device=self.device)) for ids in opened]
        before = None if deep is None else self._cache_of(*deep)
        if rows_KPD is not None:
            rows_KPD = rows_KPD.to(self.device, dtype)
            if tuning.scales(which_K) is None:
                rows = [torch.cat(pair) for pair in zip(rows_KPD, rows, strict=True)]
            else:  # scales are of text alone, so prompts run on their own
                self._scales = {}
                before = self._run(inputs_embeds=rows_KPD, use_cache=True).past_key_values
        cache, seen_KT = self._run_rows(tuning, which_K, rows, before)
        return Prefixes(tuning, which_K, seen_KT, cache)

    def _run_rows(
        self, tuning: Tuning, which_K: Tensor, rows: Sequence[Tensor], before: Any
    ) -> tuple[Any, Tensor]:
        """Run each task's rows behind what was *before*; the cache, and its columns (K, T)."""
        num_before = 0 if before is None else before.get_seq_length()
        seen_KT = torch.ones(len(rows), num_before, dtype=torch.long, device=self.device)
        if not any(len(one) for one in rows):
            return before, seen_KT
        ones = [seen_KT.new_ones(len(one)) for one in rows]
        own_KT = pad_sequence(ones, batch_first=True, padding_side="left")
        seen_KT = torch.cat([seen_KT, own_KT], dim=1)
        self.choose(tuning, which_K)
        ran = self._run(
            inputs_embeds=pad_sequence(list(rows), batch_first=True, padding_side="left"),
            attention_mask=seen_KT,
            position_ids=positions_of(seen_KT)[:, num_before:],
            past_key_values=before,
            use_cache=True,
        )
        return ran.past_key_values, seen_KT

    def _cache_of(self, keys_KLPW: Tensor, values_KLPW: Tensor) -> Any:
        """A cache as if positions with these keys and values had been run."""
        width = self.shape.keys // int(self.model.config.num_key_value_heads)
        cache = DynamicCache()  # not of the model's config: that would drop what a window hides
        for layer in range(keys_KLPW.shape[1]):
            keys, values = (
                one[:, layer].to(self.device, self.model.dtype) for one in (keys_KLPW, values_KLPW)
            )
            shape = (*keys.shape[:2], -1, width)
            cache.update(
                keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2), layer
            )
        return cache

    def _offset(self, place: str, layer: int) -> Tensor | None:
        """What the model's hooks multiply by now (B, W), told from one."""
        scales_BLW = self._scales.get(place)
        return None if scales_BLW is None else to_offset(scales_BLW[:, layer], self.model.dtype)

    def choose(self, tuning: Tuning, which_B: Tensor) -> None:
        """Let what acts inside the layers be these examples' tasks'."""
        tuning.choose(which_B)
        self._scales = tuning.scales(which_B.to(self.device)) or {}

    def ahead(
        self, tuning: Tuning | Prefixes, which_B: Tensor, openings: Openings | None = None
    ) -> Tuning | Prefixes:
        """*tuning* with what stands before these tasks' texts run, where examples share that."""
        if isinstance(tuning, Prefixes) or not self.shares or not len(which_B):
            return tuning
        return self.prefixes(tuning, which_B, openings) or tuning

    @contextmanager
    def once(
        self, tuning: Tuning, which_B: Tensor, openings: Openings | None = None
    ) -> Iterator[Tuning | Prefixes]:
        """
        *tuning* for many batches of these tasks, whose texts go on from *openings*: what stands
        before them runs through the backbone once, forward at the start and backward at the end.
        """
        made = self.ahead(tuning, which_B, openings)
        if not isinstance(made, Prefixes):
            yield made
            return
        kept = made.apart()
        yield kept
        if torch.is_grad_enabled():
            pairs = zip(made.tensors(), kept.tensors(), strict=True)
            gathered = [(m, k.grad) for m, k in pairs if m.requires_grad]
            torch.autograd.backward([m for m, _ in gathered], [grad for _, grad in gathered])

    @contextmanager
    def answering(self) -> Iterator[None]:
        """
        Inside, nothing learns: layers are not checkpointed, so that they keep a cache, and on a CPU
        their fused attention reads each key once for the heads that share it.
        """
        loaded = self.model.config._attn_implementation
        is_grouped = self.device.type == "cpu" and loaded == "sdpa"
        self.model.eval()
        try:
            with self._attending(GROUPED if is_grouped else loaded):
                yield
        finally:
            self.model.train(self.checkpointing)

    @contextmanager
    def _attending(self, how: str) -> Iterator[None]:
        """Attention of this kind inside, whatever it was before."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(how)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def hidden(self, tuning: Tuning | Prefixes, which_B: Tensor, ids_BT: Tensor) -> Tensor:
        """The last hidden states (B, T, D) of texts padded on the right, each of its task."""
        tuning = self.ahead(tuning, which_B)
        if isinstance(tuning, Prefixes):
            return self._hidden_behind(tuning, which_B, ids_BT)
        return self._hidden_apart(tuning, which_B, ids_BT)

    def _hidden_behind(self, prefixes: Prefixes, which_B: Tensor, ids_BT: Tensor) -> Tensor:
        self.choose(prefixes.tuning, which_B)
        seen_BT = torch.cat([prefixes.seen(which_B), torch.ones_like(ids_BT)], dim=1)
        states: Tensor = self._run(
            input_ids=ids_BT,
            past_key_values=prefixes.cache(which_B),
            position_ids=positions_of(seen_BT)[:, -ids_BT.shape[1] :],
            attention_mask=seen_BT,
        ).last_hidden_state
        return states

    def _hidden_apart(self, tuning: Tuning, which_B: Tensor, ids_BT: Tensor) -> Tensor:
        """With *checkpointing*: every example runs through the layers with its own prompt."""
        rows, num_positions = self.model.get_input_embeddings()(ids_BT), 0
        scales = tuning.scales(which_B.to(self.device))
        if (prompts_BPD := tuning.prompts(which_B)) is not None:
            if scales:
                raise BadInput("checkpointing", "is not for prompts and scales together")
            num_positions = prompts_BPD.shape[1]
            rows = torch.cat([prompts_BPD.to(self.device, rows.dtype), rows], dim=1)
        tuning.choose(which_B)
        self._scales = scales or {}
        states: Tensor = self._run(inputs_embeds=rows, use_cache=False).last_hidden_state
        return states[:, num_positions:]

    def _run(self, **inputs: Tensor | Any) -> Any:
        """
        One pass through the layers. On a CPU the fused attention's backward pass takes longer than
        plain attention as a whole, whose scores must be held; so what learns and is not long has
        that.
        """
        num_columns = next(iter(inputs.values())).shape[1]
        is_slow = self.device.type == "cpu" and torch.is_grad_enabled() and not self.checkpointing
        if not is_slow or num_columns > MOST_UNFUSED:
            return self.model.model(**inputs)
        with self._attending("eager"):
            return self.model.model(**inputs)

    def logits(self, hidden_AD: Tensor) -> Tensor:
        """What the output head says (A, V), in float32."""
        logits_AV: Tensor = self.model.lm_head(hidden_AD).float()
        return logits_AV


def best_device() -> str:
    """The accelerator, where there is one; of several, the one that is this process's."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _packing(path: Path | str) -> dict[str, Any]:
    """gpt-oss ships its experts in 4 bits, through which no gradient passes: they are unpacked."""
    packed = getattr(AutoConfig.from_pretrained(path), "quantization_config", None) or {}
    method = packed.get("quant_method") if isinstance(packed, dict) else packed.quant_method
    if method != "mxfp4":
        return {}
    from transformers import Mxfp4Config

    return {"quantization_config": Mxfp4Config(dequantize=True)}
