"""Other projects' attention beside ours, on calls of one size: only what is installed, and only where it is right.

Nothing of theirs is needed, and one that is not here is said so. Before a time is taken, a few rows of what a way
computes are compared to the reference; one that is wrong, or does not take such a call, has the reason in place of a
time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from chatpager.bench import peer_contiguous, peer_flash_attention, peer_flashinfer, peer_vllm
from chatpager.bench.attention_peer import Make
from chatpager.bench.gpu_kernels import MOST_CAPTURED, seconds_each
from chatpager.kernels import reference
from chatpager.kernels.arguments import AttentionCall

log = logging.getLogger(__name__)

NOT_INSTALLED = "not installed"
KNOWN: dict[str, tuple[Callable[[], Make | None], tuple[str, ...]]] = {
    "contiguous": (peer_contiguous.load, ("torch",)),
    "fa3": (peer_flash_attention.load, ("flash_attn_3", "vllm")),
    "vllm": (peer_vllm.load, ("vllm",)),
    "flashinfer": (peer_flashinfer.load, ("flashinfer-python",)),
}
"""By the name of a column: how it is loaded, and the packages that may bring it. FlashInfer is last, since it compiles
for minutes when it is called."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Of the error's norm, over that of the reference."""


@dataclass(frozen=True)
class Peer:
    """Without ``make`` it is not here, and ``found`` says why; else what version it is, as far as that is known."""

    name: str
    make: Make | None
    found: str


def peers() -> list[Peer]:
    """All that are known, those that are not here too."""
    return [_peer(name, *of) for name, of in KNOWN.items()]


def _peer(name: str, load: Callable[[], Make | None], packages: Sequence[str]) -> Peer:
    try:
        make = load()
    except Exception as error:  # theirs, whatever it raises: a library for another torch, CUDA or GPU
        log.warning("%s is here but cannot be used: %s", name, error)
        return Peer(name, None, f"cannot be imported: {_line(error)}")
    return Peer(name, make, NOT_INSTALLED if make is None else _version(packages))


def _version(packages: Sequence[str]) -> str:
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "installed"


def columns(among: Sequence[Peer], calls: Sequence[AttentionCall], seconds: float) -> dict[str, float | str]:
    """By ``name_us``: microseconds of one of ``calls``, which are of one size and take turns, or why there are none.

    Raises:
        torch.AcceleratorError: the device is lost.
    """
    if not calls or not is_plain(calls[0]):
        return {}
    told: dict[str, float | str] = {}
    expected = None if all(peer.make is None for peer in among) else sampled(calls[0])
    for peer in among:
        if peer.make is None or expected is None:
            told[f"{peer.name}_us"] = peer.found
        elif (found := _column(peer.make, calls[:MOST_CAPTURED], expected, seconds)) is not None:
            told[f"{peer.name}_us"] = found
    return told


def is_plain(call: AttentionCall) -> bool:
    """Whether every one of them may know such a call."""
    return call.key_scales is None and call.shared is None


def _column(make: Make, calls: Sequence[AttentionCall], expected: Tensor, seconds: float) -> float | str | None:
    device = calls[0].query.device
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    try:
        works = [work for call in calls if (work := make(call)) is not None]
        if not works:
            return None
        error = error_of(works[0](), calls[0], expected)
        if not error <= TOLERANCE[calls[0].query.dtype]:
            return f"wrong by {error:.1e}"
        return round(1e6 * seconds_each(device, works, seconds), 1)
    except Exception as error:  # theirs, whatever it raises: the others' figures are not to be lost with it
        log.warning("a peer does not take this call", exc_info=error)
        if stream is not None:
            _go_on_at(stream)
        return f"fails: {_line(error)}"


def _go_on_at(stream: torch.cuda.Stream) -> None:
    """Behind what failed, maybe in a capture, whose stream torch then leaves the current one. Most errors of CUDA are
    over with that; where the device is lost, waiting for it raises again."""
    torch.cuda.set_stream(stream)
    torch.cuda.synchronize(stream.device)


def _line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__} {first}".strip()[:120]


# -- what is right ----------------------------------------------------------------------------------------------------


def sampled(call: AttentionCall) -> Tensor:
    """The reference's output of ``sampled_tokens``, float64 [tokens, heads, head_dim], on the CPU."""
    found = []
    for token, row, context in sampled_tokens(call):
        pages = call.block_tables[row, : -(-context // call.block_size)].long()
        keys, values = (cache[pages].cpu() for cache in (call.key_cache, call.value_cache))
        table = torch.arange(len(pages), dtype=torch.int32).unsqueeze(0)
        query, lengths = call.query[token : token + 1].cpu(), torch.tensor([context], dtype=torch.int32)
        found.append(reference.forward(query, keys, values, table, lengths, scale=call.scale)[0])
    return torch.cat(found)


def sampled_tokens(call: AttentionCall) -> list[tuple[int, int, int]]:
    """(token, its row, tokens that it sees): the first and the last token of the first row and of the last."""
    lengths = call.context_lens.tolist()
    starts = list(range(len(lengths) + 1)) if call.query_start is None else call.query_start.tolist()
    tokens = {}
    for row in (0, len(lengths) - 1):
        first, stop = starts[row], starts[row + 1]
        for token in (first, stop - 1) if stop > first else ():
            tokens[token] = token, row, lengths[row] - (stop - 1 - token)
    return list(tokens.values())


def error_of(out: Tensor, call: AttentionCall, expected: Tensor) -> float:
    """The norm of the error of the sampled tokens over that of what is expected; NaN if there is one."""
    tokens = [token for token, _, _ in sampled_tokens(call)]
    found = out[tokens].double().cpu()
    return float((found - expected).norm() / expected.norm())
