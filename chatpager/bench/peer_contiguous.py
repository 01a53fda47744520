"""torch's attention over keys and values that lie in one piece: what a decode could take if there were no pages."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from chatpager.bench.attention_peer import Make, Work
from chatpager.kernels.arguments import AttentionCall


def load() -> Make:
    return make


def make(call: AttentionCall) -> Work | None:
    """None: a prompt, or rows of unequal length, which it could not take without a mask of their sizes."""
    lengths = call.context_lens.tolist()
    if call.query_start is not None or len(set(lengths)) != 1:
        return None
    tables = call.block_tables.long()
    keys, values = (
        cache[tables].flatten(1, 2)[:, : lengths[0]].transpose(1, 2) for cache in (call.key_cache, call.value_cache)
    )
    query, shares = call.query.unsqueeze(2), call.group > 1

    def work() -> Tensor:
        return scaled_dot_product_attention(query, keys, values, scale=call.scale, enable_gqa=shares).squeeze(2)

    return work
