"""Tile shapes and splits as pure functions of the shape: no measuring at run time, so nothing compiles under load.

What the table of ``configurations`` has is taken from there. The rules for all else come from compiling every variant
and reading registers, spills and shared memory (tests/kernels/aot.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from chatpager.kernels.configurations import Shape, Tiling, shared_prefix_gate, tilings

MIN_SPLIT = 256
"""Tokens below which a split costs more in the merge than it gains."""

LONG = 2048
"""Tokens up to which a row of decode may run uncut among work enough for all processors: what it runs alone at the end
is less than planning and merging take."""

ROUNDS = 4
"""Pieces a processor that decode is cut into: as many run there at once, or nearly."""

MAX_SPLITS = 64

HOPPER, LARGE, MEDIUM = 200 << 10, 160 << 10, 96 << 10
"""Shared memory of the data-centre cards since H100 and since A100, and of the desktop cards since then; AMD's have
64 KiB."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Extend: each row's context is cut into pieces of ``chunk`` tokens, at most ``count`` of them. Decode: all
    contexts together are cut into about ``count`` pieces of at least ``chunk`` tokens, and at most ``count`` more than
    there are rows. A ``count`` of 1 is no cut in both."""

    chunk: int
    count: int


def power_of_2(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


@lru_cache
def decode_tiling(
    head_dim: int, group: int, itemsize: int, shared_memory: int, eight_bits: bool = False, target: str = ""
) -> Tiling:
    """The tiling of one token a row; ``itemsize`` and ``shared_memory`` (what one program may use) in bytes; ``target``
    as the table has it, where it is known.

    Five stages are two buffers: the load of the page's number takes up a stage of its own. Single precision unrolls
    its products: four warps spill, and so does a tile that does not shrink as the rows grow. Where ``eight_bits`` are
    widened four warps spill on NVIDIA's cards and eight on AMD's. It does not depend on the batch, so that under equal
    splits a row gives the same bits in any company.
    """
    if known := tilings().get(Shape("decode", target, head_dim, group, itemsize, eight_bits)):
        return known
    rows = max(16, power_of_2(group))
    tile = 128 if head_dim <= 64 else 64 if head_dim <= 128 else 32
    stages = 5 if shared_memory >= LARGE else 3
    if itemsize != 2:
        return Tiling(rows, max(16, 8 * tile // rows), 8, stages)
    return Tiling(rows, tile, 8 if eight_bits and shared_memory >= MEDIUM else 4, stages)


@lru_cache
def extend_tiling(
    head_dim: int,
    group: int,
    itemsize: int,
    max_query_len: int,
    shared_memory: int,
    eight_bits: bool = False,
    target: str = "",
) -> Tiling:
    """The tiling of several tokens a row: 64 rows at least, so that Hopper multiplies with wgmma.

    Four warps hold 64 rows of a head dimension up to 128, and above 64 half as many tokens; twice the rows or twice the
    dimension spill without eight. NVIDIA's cards before Hopper, whose products take both operands from registers, hold
    128 rows of more than 64 dimensions only against half as many tokens.
    Single precision has no such instruction: its products unroll, and more rows or tokens at a time spill.
    """
    few = max_query_len * group <= 64
    if known := tilings().get(Shape("extend", target, head_dim, group, itemsize, eight_bits, few)):
        return known
    if itemsize != 2:
        return Tiling(max(64 if head_dim <= 64 else 32, power_of_2(group)), 16, 8, 2)
    if eight_bits and shared_memory < MEDIUM:  # AMD's, which spill with more
        return Tiling(max(64, power_of_2(group)), 32, 4, 2)
    wide = head_dim > 128
    rows = 64 if few or wide else 128
    crowded = rows == 128 and head_dim > 64 and MEDIUM <= shared_memory < HOPPER
    return Tiling(
        rows=max(rows, power_of_2(group)),
        tile=64 if head_dim <= 64 or (rows == 128 and not crowded) else 32,
        num_warps=8 if wide or rows == 128 else 4,
        num_stages=3 if shared_memory >= MEDIUM else 2,
    )


@lru_cache(maxsize=4096)
def decode_splits(batch: int, kv_heads: int, max_context_len: int, processors: int) -> Splits:
    """Whether ``plan_kernel`` is to cut contexts, and into how many pieces (a KV head each): until they fill the
    processors four times over. How long the pieces are is decided on the device, by the lengths that are there."""
    wanted = ROUNDS * processors
    is_short = max_context_len < MIN_SPLIT + MIN_SPLIT // 2  # the planner cuts nothing up to there
    if is_short or (batch * kv_heads >= wanted and max_context_len <= LONG):
        return Splits(MIN_SPLIT, 1)
    return Splits(MIN_SPLIT, max(2, wanted // kv_heads))


@lru_cache(maxsize=4096)
def suffix_splits(kv_heads: int, processors: int) -> Splits:
    """Of what rows have behind a shared prefix: always planned, since it is merged with the prefix anyway."""
    return Splits(MIN_SPLIT, max(2, ROUNDS * processors // kv_heads))


@lru_cache(maxsize=4096)
def extend_splits(programs: int, max_context_len: int, tile: int, processors: int) -> Splits:
    """Cut the contexts of blocks of new tokens x KV heads, only where these leave half of two rounds idle, since
    partial results are as large as the queries; it follows that they take up memory for at most two rounds of programs.
    Host numbers only, so nothing waits for the device."""
    wanted = 2 * processors // max(programs, 1)
    chunk = max(-(-max_context_len // max(wanted, 1)), MIN_SPLIT, -(-max_context_len // MAX_SPLITS))
    chunk = -(-chunk // tile) * tile
    return Splits(chunk, max(1, -(-max_context_len // chunk)))


def shares_prefix(members: int, tokens: int, group: int, token_bytes: int) -> bool:
    """Whether ``members`` rows of decode should attend to ``tokens`` that they share together; ``token_bytes`` of keys
    and values in one layer."""
    gate = shared_prefix_gate()
    saved = (members - 1) * tokens * token_bytes
    return tokens >= gate.tokens and members * group >= gate.rows and saved >= gate.saved_bytes
