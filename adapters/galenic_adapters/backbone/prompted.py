"""
The frozen backbone with soft prompts, deep prompts and scales of many tasks in one batch.

A task's prefix is computed once per task and reused by all of the task's examples.

Dimension key:  K tasks   P prompt positions   D model width   B examples   T text positions
                L layers   W width of keys, or of a place
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from galenic_adapters.backbone.attention import GROUPED
from galenic_adapters.backbone.constraints import Constrainer
from galenic_adapters.backbone.prefixes import Openings, Prefixes, positions_of
from galenic_adapters.backbone.scaling import Scales, hook_scales, to_offset
from galenic_adapters.backbone.tuning import Tuning
from galenic_adapters.backbone.weights import shape_of
from galenic_adapters.errors import BadInput
from galenic_adapters.shape import PLACES, BackboneShape

MOST_UNFUSED = 1024
"""The longest texts, in tokens, for which unfused attention may hold its score matrices."""
SAMPLED_VOCABULARY = 5000
"""Tokens to sample from (arXiv 2104.08691); a byte-pair vocabulary begins with frequent ones."""


class PromptedBackbone:
    """
    Holds a transformers model with frozen weights, and runs it with a `Tuning`.

    Examples of one task share a prompt, so its keys and values are computed once; a causal model
    gives the same result as with the prompt before every example. With *checkpointing* (layers are
    recomputed in the backward pass, for large backbones) every example has its own prompt rows.
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
        """Tell whether examples of a task share a KV prefix."""
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
        """Tell whether some layers have a sliding window, which counts padding columns too."""
        kinds = getattr(self.model.config, "layer_types", None)
        if kinds is None:
            return bool(getattr(self.model.config, "sliding_window", None))
        return "sliding_attention" in kinds

    @property
    def end_tokens(self) -> list[int]:
        """Return every token that ends a turn; the first is the one used in training."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        found = [self.tokenizer.eos_token_id, *listed]
        return list(dict.fromkeys(token for token in found if token is not None))

    @cached_property
    def constrainer(self) -> Constrainer:
        """Make the compiler of constraints for this backbone's vocabulary."""
        return Constrainer(self.tokenizer, self.vocab_size, self.end_tokens)

    @property
    def num_parameters(self) -> int:
        return int(sum(p.numel() for p in self.model.parameters()))

    def embed_text(self, text: str, num_positions: int) -> Tensor:
        """Embed *text*, repeated or cut to *num_positions* tokens, as float32 rows (P, D)."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self._embed((ids * (num_positions // len(ids) + 1))[:num_positions])

    def embed_vocabulary(self, num_positions: int, *, seed: int) -> Tensor:
        """Embed randomly drawn frequent tokens of the vocabulary as float32 rows (P, D)."""
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
        Compute each task's KV prefix: its prompt, then its opening.

        Returns None if the tasks have neither. Differentiable with respect to the tuning.
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
            else:  # scales act on text only, so prompts run first, without them
                self._scales = {}
                before = self._run(inputs_embeds=rows_KPD, use_cache=True).past_key_values
        cache, seen_KT = self._run_rows(tuning, which_K, rows, before)
        return Prefixes(tuning, which_K, seen_KT, cache)

    def _run_rows(
        self, tuning: Tuning, which_K: Tensor, rows: Sequence[Tensor], before: Any
    ) -> tuple[Any, Tensor]:
        """Run each task's *rows* after the cache *before*; returns cache and mask (K, T)."""
        num_before = 0 if before is None else before.get_seq_length()
        seen_KT = torch.ones(len(rows), num_before, dtype=torch.long, device=self.device)
        if not any(len(rows_TD) for rows_TD in rows):
            return before, seen_KT
        ones = [seen_KT.new_ones(len(rows_TD)) for rows_TD in rows]
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
        """Make a cache that holds these keys and values as if positions had been run."""
        width = self.shape.keys // int(self.model.config.num_key_value_heads)
        cache = DynamicCache()  # without the model's config: that would drop columns by window
        for layer in range(keys_KLPW.shape[1]):
            keys, values = (
                both[:, layer].to(self.device, self.model.dtype)
                for both in (keys_KLPW, values_KLPW)
            )
            shape = (*keys.shape[:2], -1, width)
            cache.update(
                keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2), layer
            )
        return cache

    def _offset(self, place: str, layer: int) -> Tensor | None:
        """Return the current batch's offsets (B, W) from scale 1, for the model's hooks."""
        scales_BLW = self._scales.get(place)
        return None if scales_BLW is None else to_offset(scales_BLW[:, layer], self.model.dtype)

    def choose(self, tuning: Tuning, which_B: Tensor) -> None:
        """Set scales and hooks inside the layers to the tasks of the next batch's examples."""
        tuning.choose(which_B)
        self._scales = tuning.scales(which_B.to(self.device)) or {}

    def ahead(
        self, tuning: Tuning | Prefixes, which_B: Tensor, openings: Openings | None = None
    ) -> Tuning | Prefixes:
        """
        Compute each task's KV prefix (prompt and shared opening).

        Returns *tuning* unchanged if prefixes are not shared or there are none.
        """
        if isinstance(tuning, Prefixes) or not self.shares or not len(which_B):
            return tuning
        return self.prefixes(tuning, which_B, openings) or tuning

    @contextmanager
    def once(
        self, tuning: Tuning, which_B: Tensor, openings: Openings | None = None
    ) -> Iterator[Tuning | Prefixes]:
        """
        Share the tasks' KV prefixes among many batches, whose texts continue after *openings*.

        Prefixes run through the backbone once: forward on entry, backward on exit. Batches in the
        block accumulate gradients at detached copies, which the exit passes on to the tuning.
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
        Switch the model to decoding for the block.

        Layers are not checkpointed, so that they keep a cache. On a CPU, attention is grouped: it
        reads each key once for all heads that share it.
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
        """Switch the model to this attention implementation for the block."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(how)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def hidden(self, tuning: Tuning | Prefixes, which_B: Tensor, ids_BT: Tensor) -> Tensor:
        """
        Return the last hidden states (B, T, D) of texts, each under its task's tuning.

        ids_BT is padded on the right: a causal model's earlier positions never see padding.
        """
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
        """Run every example with its own prompt rows, as *checkpointing* needs."""
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
        Run one pass through the layers.

        On a CPU, the backward pass of fused attention is slower than all of eager attention, which
        must hold its scores: training uses eager attention unless the text is long.
        """
        num_columns = next(iter(inputs.values())).shape[1]
        is_slow = self.device.type == "cpu" and torch.is_grad_enabled() and not self.checkpointing
        if not is_slow or num_columns > MOST_UNFUSED:
            return self.model.model(**inputs)
        with self._attending("eager"):
            return self.model.model(**inputs)

    def logits(self, hidden_AD: Tensor) -> Tensor:
        """Return the output head's logits (A, V) in float32."""
        logits_AV: Tensor = self.model.lm_head(hidden_AD).float()
        return logits_AV


def best_device() -> str:
    """Return the GPU of this process (by LOCAL_RANK), or the CPU if there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _packing(path: Path | str) -> dict[str, Any]:
    """Return arguments that unpack 4-bit experts (gpt-oss), through which no gradient passes."""
    packed = getattr(AutoConfig.from_pretrained(path), "quantization_config", None) or {}
    method = packed.get("quant_method") if isinstance(packed, dict) else packed.quant_method
    if method != "mxfp4":
        return {}
    from transformers import Mxfp4Config

    return {"quantization_config": Mxfp4Config(dequantize=True)}
