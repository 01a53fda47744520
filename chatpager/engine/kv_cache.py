"""Keys and values of every layer in blocks: as the model's own numbers, or in eight bits beside scales.

Of eight bits are the numbers of one token's head together: the largest of them becomes the type's largest, and what it
was divided by is kept beside them. A block's content, as the lower tiers keep it, is all of that in one row of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

from chatpager.errors import ConfigError
from chatpager.kernels.arguments import EIGHT_BITS
from chatpager.kernels.store_kv import copy_blocks

NAMED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""What the setting ``kv_cache_dtype`` calls them."""
SCALE_BYTES = 4
"""Of a token's head, of keys and of values each."""
WORD = torch.int64
"""Content is copied in these: a block holds a multiple of eight tokens, so all of its parts are whole words."""


def kept_as(name: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What keys and values of a model in ``dtype`` are kept as under the setting ``name``; auto is as they are.

    Raises:
        ConfigError: the device cannot convert what was asked for.
    """
    if name == "auto":
        return dtype
    kept = NAMED[name]
    if device.type == "cuda":
        from chatpager.kernels import cuda  # triton is there on Linux only, and slow to import

        if kept not in cuda.served_eight_bits(device):
            problem = f"{torch.cuda.get_device_name(device)} cannot convert these numbers; use int8"
            raise ConfigError("kv_cache_dtype", problem, value=name)
    return kept


def scale_bytes(kept: torch.dtype) -> int:
    """Of a token's head, beside its numbers."""
    return SCALE_BYTES if kept in EIGHT_BITS else 0


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, [num_blocks, block_size, kv_heads, head_dim] each; the scales of those of eight
    bits are float32 [num_blocks, kv_heads, block_size], and of others there are none."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    key_scales: list[torch.Tensor] = field(default_factory=list)
    value_scales: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def allocate(
        cls,
        layers: int,
        num_blocks: int,
        block_size: int,
        heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """``dtype``: of what is kept."""

        # Not zeroed: pages are mapped when first written, and no kernel reads a slot that was not.
        def tensors(kind: torch.dtype, *shape: int) -> list[torch.Tensor]:
            return [torch.empty(num_blocks, *shape, dtype=kind, device=device) for _ in range(layers)]

        numbers = (tensors(dtype, block_size, heads, dim) for _ in range(2))
        if dtype not in EIGHT_BITS:
            return cls(*numbers)
        return cls(*numbers, *(tensors(torch.float32, heads, block_size) for _ in range(2)))

    @property
    def is_scaled(self) -> bool:
        return bool(self.key_scales)

    def scales(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Of a layer's keys and of its values, as the kernels take them."""
        return (self.key_scales[layer], self.value_scales[layer]) if self.is_scaled else None

    def copy(self, pairs: torch.Tensor) -> None:
        """Block ``pairs[i, 0]`` to block ``pairs[i, 1]``, int64 [n, 2], in every layer."""
        copy_blocks(self.keys, self.values, pairs)
        if self.is_scaled:
            keys, values = ([one.unsqueeze(-1) for one in part] for part in (self.key_scales, self.value_scales))
            copy_blocks(keys, values, pairs)

    def read(self, ids: Iterable[int]) -> list[bytes]:
        """The content of each block: keys of all layers, then values, [block_size, kv_heads, head_dim] each, then the
        scales of all layers' keys, then of values. Of a cache in the host's memory; a GPU's is for ``BlockCopies``."""
        views = [part.numpy() for part in self.words()]  # a fourth of what torch's indexing takes, by all threads
        return [b"".join([view[i].tobytes() for view in views]) for i in ids]

    def write(self, ids: Iterable[int], contents: Iterable[bytes]) -> None:
        """What ``read`` gave, of a cache of the same layout."""
        parts, where = self.words(), torch.tensor(list(ids))
        raw = torch.frombuffer(bytearray().join(contents), dtype=WORD).view(len(where), -1)
        bounds = pairwise(accumulate((part.shape[1] for part in parts), initial=0))
        for part, (start, stop) in zip(parts, bounds, strict=True):
            part[where] = raw[:, start:stop]

    def words(self) -> list[torch.Tensor]:
        """The same memory as [num_blocks, words], in the order of a block's content."""
        every = (*self.keys, *self.values, *self.key_scales, *self.value_scales)
        return [pages.flatten(1).view(WORD) for pages in every]
