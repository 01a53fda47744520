"""A sequence's token ids on the model's device, for the rules that look at all of them."""

from __future__ import annotations

import torch


class TokenHistory:
    """Belongs to one sequence and ends with it; each of its tokens is read once. A sequence only ever grows, so what
    was read stays true through preemption and through steps that are computed again."""

    def __init__(self, device: torch.device) -> None:
        self._ids = torch.empty(0, dtype=torch.int64, device=device)
        self._count = 0

    def of(self, token_ids: list[int]) -> torch.Tensor:
        """``token_ids`` as int64, of which only those since the last call are read; good until the next call."""
        have, want = self._count, len(token_ids)
        if want > self._ids.numel():
            grown = self._ids.new_empty(max(64, 2 * want))
            grown[:have] = self._ids[:have]
            self._ids = grown
        if want > have:
            self._ids[have:want] = torch.tensor(token_ids[have:], dtype=torch.int64)
        self._count = want
        return self._ids[:want]
