# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Drawing tokens on a GPU: min-p, top-k and top-p without a sort, then the token at the seed's place of what is left.

A row is looked at alone and always in the same order: its token does not depend on the batch.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor, float32, float64, int32, int64

from chatpager.kernels.cuda import COMPILED, on_device
from chatpager.kernels.heuristics import power_of_2
from chatpager.kernels.row_cut import as_key, largest, last_of, scaled, top_k_cut, top_p_cut
from chatpager.kernels.split_cut import CHUNK, PIVOTS, ROUNDS, RULES, STATE, look_kernel, settle_kernel
from chatpager.kernels.workspace import Workspace

BLOCK = 4096
"""Tokens that are looked at together."""
LEAST_BLOCKS = 16
"""Of a row that several programs cut: 64k tokens."""
MOST_PROGRAMS = 512
"""Of a cut by several a row: a GPU has room for about as many at once, and with more rows each may have one."""


@triton.jit
def uniform(seed, position):
    """A number in [0, 1) of (seed, position): the upper 52 bits of xxh3_64 (Collet) of both as 16 bytes, so that the
    host can draw the same. ``seed`` and ``position`` are uint64, or blocks of them."""
    low = seed ^ 0x6782737BEA4239B9
    high = position ^ 0xAF56BC3B0996523A
    swapped = ((low & 0x00FF00FF00FF00FF) << 8) | ((low >> 8) & 0x00FF00FF00FF00FF)
    swapped = ((swapped & 0x0000FFFF0000FFFF) << 16) | ((swapped >> 16) & 0x0000FFFF0000FFFF)
    swapped = (swapped << 32) | (swapped >> 32)
    mixed = swapped + high + ((low * high) ^ tl.umulhi(low, high)) + 16
    mixed = (mixed ^ (mixed >> 37)) * 0x165667919E3779F9
    mixed = mixed ^ (mixed >> 32)
    return (mixed >> 12).to(tl.int64).to(tl.float64) * 2.220446049250313e-16


@triton.jit(do_not_specialize=["vocabulary"])
def peak_kernel(p_peaks, p_logits, p_temperature, row_stride, vocabulary, BLOCK: tl.constexpr):
    """Grid (rows, blocks): each block's largest scaled logit; NaN if one of them is no number."""
    i_row, i_block = tl.program_id(0), tl.program_id(1)
    p_row = p_logits + i_row.to(tl.int64) * row_stride
    b_x = scaled(p_row, i_block * BLOCK + tl.arange(0, BLOCK), vocabulary, tl.load(p_temperature + i_row))
    peak = largest(b_x)
    tl.store(p_peaks + i_row * tl.num_programs(1) + i_block, peak)


@triton.jit(do_not_specialize=["vocabulary", "blocks"], do_not_specialize_on_alignment=[*RULES])
def cut_kernel(
    p_cuts,
    p_peak,
    p_peaks,
    p_logits,
    p_temperature,
    p_top_k,
    p_top_p,
    p_log_min_p,
    row_stride,
    vocabulary,
    blocks,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows): the row's peak, the least key that is kept, and the last place at which that key is."""
    i_row = tl.program_id(0)
    o_b = tl.arange(0, BLOCKS)
    b_peak = tl.load(p_peaks + i_row * blocks + o_b, mask=o_b < blocks, other=float("-inf"))
    peak = largest(b_peak)
    temperature = tl.load(p_temperature + i_row)
    top_k, top_p = tl.load(p_top_k + i_row), tl.load(p_top_p + i_row)
    p_row = p_logits + i_row.to(tl.int64) * row_stride
    highest = as_key(peak)
    cut = as_key(peak + tl.load(p_log_min_p + i_row))
    kept = tl.full((), -1, tl.int32)
    last = vocabulary
    if (peak == peak) & (tl.abs(peak) < float("inf")):
        if top_k > 0:
            cut, kept = top_k_cut(p_row, vocabulary, temperature, cut, highest, top_k, BLOCK)
        if top_p < 1.0:
            cut, kept = top_p_cut(p_row, vocabulary, temperature, peak, cut, kept, highest, top_p, BLOCK)
        if kept >= 0:
            last = last_of(p_row, vocabulary, temperature, cut, kept, BLOCK)
    tl.store(p_peak + i_row, peak)
    tl.store(p_cuts + 2 * i_row, cut)
    tl.store(p_cuts + 2 * i_row + 1, last)


@triton.jit
def kept_mass(p_row, o_x, vocabulary, temperature, p_cuts, p_peak):
    """``exp(x - peak)`` of tokens that are kept, zero of the others, in double precision."""
    b_x = scaled(p_row, o_x, vocabulary, temperature)
    b_key = as_key(b_x)
    cut = tl.load(p_cuts)
    m_x = (b_key > cut) | ((b_key == cut) & (o_x <= tl.load(p_cuts + 1)))
    return tl.where(m_x & (o_x < vocabulary), tl.exp(b_x - tl.load(p_peak)), 0.0).to(tl.float64)


@triton.jit(do_not_specialize=["vocabulary"])
def mass_kernel(p_masses, p_cuts, p_peak, p_logits, p_temperature, row_stride, vocabulary, BLOCK: tl.constexpr):
    """Grid (rows, blocks): the mass of each block."""
    i_row, i_block = tl.program_id(0), tl.program_id(1)
    p_row = p_logits + i_row.to(tl.int64) * row_stride
    o_x = i_block * BLOCK + tl.arange(0, BLOCK)
    temperature = tl.load(p_temperature + i_row)
    b_mass = kept_mass(p_row, o_x, vocabulary, temperature, p_cuts + 2 * i_row, p_peak + i_row)
    mass = tl.sum(b_mass, 0)
    tl.store(p_masses + i_row * tl.num_programs(1) + i_block, tl.where(mass == mass, mass, 0.0))


@triton.jit(do_not_specialize=["vocabulary", "blocks"], do_not_specialize_on_alignment=["p_seeds", "p_positions"])
def pick_kernel(
    p_tokens,
    p_masses,
    p_cuts,
    p_peak,
    p_logits,
    p_temperature,
    p_seeds,
    p_positions,
    row_stride,
    vocabulary,
    blocks,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows): the first token at which the running sum of masses exceeds the seed's place; -1 if the row's peak
    is not finite."""
    i_row = tl.program_id(0)
    o_b = tl.arange(0, BLOCKS)
    b_sum = tl.cumsum(tl.load(p_masses + i_row * blocks + o_b, mask=o_b < blocks, other=0.0), 0)
    seed = tl.load(p_seeds + i_row).to(tl.uint64, bitcast=True)
    place = uniform(seed, tl.load(p_positions + i_row).to(tl.uint64, bitcast=True)) * tl.max(b_sum, 0)
    i_block = tl.minimum(tl.sum((b_sum <= place).to(tl.int32), 0), blocks - 1)
    before = tl.sum(tl.where(o_b == i_block - 1, b_sum, 0.0), 0)
    p_row = p_logits + i_row.to(tl.int64) * row_stride
    o_x = i_block * BLOCK + tl.arange(0, BLOCK)
    temperature = tl.load(p_temperature + i_row)
    b_mass = kept_mass(p_row, o_x, vocabulary, temperature, p_cuts + 2 * i_row, p_peak + i_row)
    token = i_block * BLOCK + tl.sum((before + tl.cumsum(b_mass, 0) <= place).to(tl.int32), 0)
    token = tl.minimum(token, tl.max(tl.where(b_mass > 0.0, o_x, 0), 0))
    peak = tl.load(p_peak + i_row)
    is_sound = (peak == peak) & (tl.abs(peak) < float("inf"))
    tl.store(p_tokens + i_row, tl.where(is_sound, token, -1).to(tl.int64))


def is_split(rows: int, vocabulary: int) -> bool:
    """Whether several programs cut each row: dozens of launches, where one program would take longer than all."""
    blocks = triton.cdiv(vocabulary, BLOCK)
    return blocks >= LEAST_BLOCKS and rows * blocks <= MOST_PROGRAMS


def draw(
    logits: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    log_min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    workspace: Workspace | None = None,
    is_cut: bool = True,
) -> Tensor:
    """One token a row, int64 [rows]; -1 where a row's largest logit is not finite. Nothing waits for the device.
    ``is_cut``: whether a row may have a top-k or a top-p; False saves time, and the answer is the same where none has.

    Args:
        logits: float32 [rows, vocabulary], the last dimension contiguous.
        temperature, top_p, log_min_p: float32 [rows], above 0, in (0, 1], at most 0 (-inf is off).
        top_k: int32 [rows]; 0 or less is off.
        seeds, positions: int64 [rows], of which a token's random number is made.
    """
    rows, vocabulary = logits.shape
    device, take = logits.device, (workspace or Workspace()).take
    block = min(BLOCK, power_of_2(vocabulary))
    blocks = triton.cdiv(vocabulary, block)
    tokens = take("tokens", (rows,), int64, device)
    if rows == 0:
        return tokens
    peaks, peak = take("peaks", (rows, blocks), float32, device), take("peak", (rows,), float32, device)
    cuts, masses = take("cuts", (rows, 2), int32, device), take("masses", (rows, blocks), float64, device)
    source = logits, temperature
    every: dict[str, int] = {"BLOCK": block, **COMPILED}
    sizes = logits.stride(0), vocabulary
    with on_device(logits):
        peak_kernel[(rows, blocks)](peaks, *source, *sizes, **every)
        cut = _split_cut if is_cut and is_split(rows, vocabulary) else _cut
        cut((cuts, peak), (peaks, *source, top_k, top_p, log_min_p, *sizes, blocks), (rows, blocks), take, every)
        mass_kernel[(rows, blocks)](masses, cuts, peak, *source, *sizes, **every)
        pick_kernel[(rows,)](
            tokens, masses, cuts, peak, *source, seeds, positions, *sizes, blocks, BLOCKS=power_of_2(blocks), **every
        )  # fmt: skip
    return tokens


def _cut(found: tuple[Tensor, ...], row: tuple[Any, ...], size: tuple[int, int], _: Any, every: dict[str, int]) -> None:
    """One program a row: the cut and the peak, to ``found``."""
    cut_kernel[(size[0],)](*found, *row, BLOCKS=power_of_2(size[1]), num_warps=8, **every)


def _split_cut(
    found: tuple[Tensor, ...], row: tuple[Any, ...], size: tuple[int, int], take: Any, every: dict[str, int]
) -> None:
    """The same by a program a block. Rounds take turns in two places: none reads where another one writes."""
    rows, blocks = size
    device, named = found[0].device, {"BLOCKS": power_of_2(blocks), "PIVOTS": PIVOTS, "num_warps": 8, **every}
    state = take("states", (2, rows, STATE), int64, device)
    counts, masses = (take(f"found {kind}", (2, rows, blocks, PIVOTS), kind, device) for kind in (int32, int64))
    chunk = min(CHUNK, every["BLOCK"])
    for i in range(ROUNDS):
        new, old = i % 2, (i + 1) % 2
        look_kernel[size](
            state[new], state[old], counts[new], masses[new], counts[old], masses[old], *row,
            CHUNK=chunk, FIRST=i == 0, **named,
        )  # fmt: skip
    last = (ROUNDS - 1) % 2
    settle_kernel[(rows,)](*found, state[last], counts[last], masses[last], *row, **named)
