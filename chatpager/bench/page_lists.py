"""The pages of a call as other libraries want them named: one list of all rows' pages, and where each row's begin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chatpager.kernels.arguments import AttentionCall


class PageLists(NamedTuple):
    """int32, on the device of the call: ``indices`` [pages of all rows], those of row r at ``starts[r]`` to before
    ``starts[r + 1]``; ``last_page_len`` [rows], tokens in the row's last page, 0 for a row without any."""

    starts: Tensor
    indices: Tensor
    last_page_len: Tensor


def page_lists(call: AttentionCall) -> PageLists:
    """Of ``call.block_tables``, without what stands behind a row's context there."""
    lengths, size = call.context_lens, call.block_size
    counts = (lengths + size - 1) // size
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    is_used = torch.arange(call.block_tables.shape[1], device=lengths.device) < counts.unsqueeze(1)
    filled = torch.where(lengths > 0, (lengths - 1) % size + 1, 0)
    return PageLists(starts, call.block_tables[is_used], filled.int())


def query_starts(call: AttentionCall) -> Tensor:
    """int32 [rows + 1]: where each row's queries begin, of a decode too."""
    if call.query_start is not None:
        return call.query_start
    return torch.arange(len(call.context_lens) + 1, dtype=torch.int32, device=call.query.device)


def longest_query(call: AttentionCall) -> int:
    """Tokens of the longest run of queries; a decode's call says nothing about it."""
    return 1 if call.query_start is None else call.max_query_len
