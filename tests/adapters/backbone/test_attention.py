import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from galenic_adapters.backbone.attention import grouped_attention


@pytest.mark.parametrize("num_new", [1, 5])
@pytest.mark.parametrize("num_key_heads", [1, 2, 6])
def test_grouped_heads_see_what_transformers_shows_them(num_new, num_key_heads):
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, num_new, 8, generator=rng)
    key, value = torch.randn(2, 3, num_key_heads, 9, 8, generator=rng)
    seen = torch.rand(3, 1, num_new, 9, generator=rng) < 0.5
    seen[..., 0] = True
    layer = torch.nn.Module()
    layer.num_key_value_groups = 6 // num_key_heads

    ours, _ = grouped_attention(layer, query, key, value, seen, scaling=0.3)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, seen, scaling=0.3)

    torch.testing.assert_close(ours, theirs)
