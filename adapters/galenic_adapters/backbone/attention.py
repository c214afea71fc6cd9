"""
Grouped-query attention for decoding on a CPU, registered beside transformers' own kinds.

Query heads that share a key head are treated as further positions of one head, so its keys and
values are read once for all of them. Transformers copies keys and values for every query head
whenever there is a mask.

Dimension key:  B examples   H query heads   K key heads   G = H / K   T new positions
                S all positions   D width of a head
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

GROUPED = "galenic_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    seen_B1TS: Tensor,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attended values (B, T, H, D), by torch's fused kernel, and no weights."""
    num_examples, num_heads, num_new, width = query_BHTD.shape
    num_key_heads = key_BKSD.shape[1]
    attended = torch.nn.functional.scaled_dot_product_attention(
        query_BHTD.reshape(num_examples, num_key_heads, -1, width),
        key_BKSD,
        value_BKSD,
        attn_mask=seen_B1TS.repeat(1, 1, num_heads // num_key_heads, 1),
        scale=scaling,
    )
    return attended.reshape(num_examples, num_heads, num_new, width).transpose(1, 2), None


def written_out(*args: Any, **kwargs: Any) -> Tensor:
    """Make the mask (B, 1, T, S); unlike transformers', it is never left out as plain causal."""
    seen_B1TS: Tensor = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    return seen_B1TS


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, written_out)
