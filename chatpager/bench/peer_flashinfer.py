"""FlashInfer (Apache-2.0), where it is installed; the calls are those that its documentation of 0.6 describes.

It plans on the host, once a step, which is not measured; what it compiles it does when a kind of call first comes.
"""

from __future__ import annotations

from typing import Any

import torch

from chatpager.bench.attention_peer import Make, Work, first_of
from chatpager.bench.page_lists import page_lists, query_starts
from chatpager.kernels.arguments import AttentionCall

FLOAT_BYTES = 128 << 20
"""What it recommends for parts of results; all calls share it, one behind the other."""
PLAN_BYTES = 1 << 20
"""Of each call's own, on the device and pinned on the host: hundreds of calls of its default would take gigabytes."""
FEW_HEADS = 4
"""Query heads that share keys, from which on its decode on tensor cores is the faster one."""


def load() -> Make | None:
    """None: it is not here. Raises ImportError: what it needs is not."""
    library = first_of("flashinfer")
    return None if library is None else Plans(library).make


class Plans:
    def __init__(self, library: Any) -> None:
        self._library = library
        self._floats: torch.Tensor | None = None

    def make(self, call: AttentionCall) -> Work | None:
        if self._floats is None:
            self._floats = torch.zeros(FLOAT_BYTES, dtype=torch.uint8, device=call.query.device)
        wrapper = self._decode(call) if call.query_start is None else self._extend(call)
        caches = call.key_cache, call.value_cache
        return lambda: wrapper.run(call.query, caches)

    def _decode(self, call: AttentionCall) -> Any:
        wrapper = self._library.BatchDecodeWithPagedKVCacheWrapper(
            self._floats, "NHD", use_tensor_cores=call.group >= FEW_HEADS
        )
        self._give_memory(wrapper)
        wrapper.plan(
            *page_lists(call), num_qo_heads=call.query.shape[1], num_kv_heads=call.kv_heads, head_dim=call.head_dim,
            page_size=call.block_size, sm_scale=call.scale, **_kinds(call),
        )  # fmt: skip
        return wrapper

    def _extend(self, call: AttentionCall) -> Any:
        wrapper = self._library.BatchPrefillWithPagedKVCacheWrapper(self._floats, "NHD")
        self._give_memory(wrapper)
        wrapper.plan(
            query_starts(call), *page_lists(call), num_qo_heads=call.query.shape[1], num_kv_heads=call.kv_heads,
            head_dim_qk=call.head_dim, page_size=call.block_size, causal=True, sm_scale=call.scale, **_kinds(call),
        )  # fmt: skip
        return wrapper

    def _give_memory(self, wrapper: Any) -> None:
        wrapper.reset_workspace_buffer(self._floats, torch.empty(PLAN_BYTES, dtype=torch.uint8, device=wrapper.device))


def _kinds(call: AttentionCall) -> dict[str, torch.dtype]:
    return {"q_data_type": call.query.dtype, "kv_data_type": call.key_cache.dtype}
