"""One compiled form of a kernel: everything its code depends on, whether it is launched or compiled ahead."""

from __future__ import annotations

from dataclasses import dataclass

from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.configurations import Tiling
from chatpager.kernels.heuristics import power_of_2


@dataclass(frozen=True, slots=True)
class Variant:
    """``strides`` are the caches' block, slot and head strides: constants, since they never change while serving, and
    only a known multiple of 16 lets a row be loaded in 16-byte pieces."""

    kv_heads: int
    group: int
    head_dim: int
    block_size: int
    strides: tuple[int, int, int]
    quantised: bool
    has_window: bool
    has_softcap: bool
    has_sinks: bool
    has_lse: bool
    split: bool
    tiling: Tiling

    @classmethod
    def of(cls, call: AttentionCall, tiling: Tiling, split: bool) -> Variant:
        block, slot, head, _ = call.key_cache.stride()
        return cls(
            kv_heads=call.kv_heads,
            group=call.group,
            head_dim=call.head_dim,
            block_size=call.block_size,
            strides=(block, slot, head),
            quantised=call.key_scales is not None,
            has_window=call.sliding_window is not None,
            has_softcap=call.softcap is not None,
            has_sinks=call.sinks is not None,
            has_lse=call.lse is not None,
            split=split,
            tiling=tiling,
        )

    def constants(self) -> dict[str, int]:
        """The kernel's constant arguments by name."""
        return {
            "KV_HEADS": self.kv_heads,
            "GROUP": self.group,
            "HEAD_DIM": self.head_dim,
            "BLOCK_SIZE": self.block_size,
            "STRIDE_BLOCK": self.strides[0],
            "STRIDE_SLOT": self.strides[1],
            "STRIDE_HEAD": self.strides[2],
            "SCALES": self.quantised * self.kv_heads * self.block_size,
            "HAS_WINDOW": self.has_window,
            "HAS_SOFTCAP": self.has_softcap,
            "HAS_SINKS": self.has_sinks,
            "HAS_LSE": self.has_lse,
            "SPLIT": self.split,
            "ROWS": self.tiling.rows,
            "TILE": self.tiling.tile,
            "BLOCK_DIM": max(16, power_of_2(self.head_dim)),
        }

    def prefix_constants(self) -> dict[str, int]:
        """Those of the kernel of shared prefixes."""
        absent = ("HAS_WINDOW", "HAS_LSE", "SPLIT")
        return {name: value for name, value in self.constants().items() if name not in absent}


MERGED_AT_ONCE = 16
"""Partial results of a row that are in registers together."""


def merge_constants(heads: int, head_dim: int, planned: bool, has_lse: bool, shared: bool = False) -> dict[str, int]:
    """The constant arguments of the merge kernel by name."""
    return {
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "HAS_LSE": has_lse,
        "PLANNED": planned,
        "SHARED": shared,
        "SPLITS": MERGED_AT_ONCE,
        "BLOCK_DIM": max(16, power_of_2(head_dim)),
    }
