"""Which rows of a step begin with the same pages, found in their block tables.

A block holds the keys and values of its tokens behind one prefix, so that rows with the same block at some place have
the same tokens up to there, and one's pages serve all: only that one column is compared, whatever stands before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """``rows`` of the batch, in order, and how many ``tokens`` they share: whole blocks."""

    rows: np.ndarray
    tokens: int


@dataclass(frozen=True)
class Sharing:
    """What is worth finding: at least ``members`` rows with ``tokens`` of one prefix, for which ``pays`` is asked how
    many of both there are."""

    members: int
    tokens: int
    pays: Callable[[int, int], bool]

    def groups(self, tables: np.ndarray, contexts: np.ndarray, block_size: int) -> list[Group]:
        """Of rows with their block ``tables`` [rows, widest] and as many ``contexts``, the token that asks included,
        which is never shared. No row is in two groups."""
        if len(tables) < self.members:
            return []
        column = max(-(-self.tokens // block_size), 1) - 1
        whole = (contexts - 1) // block_size
        able = np.flatnonzero(whole > column)
        if len(able) < self.members:
            return []
        _, which, counts = np.unique(tables[able, column], return_inverse=True, return_counts=True)
        found = []
        for i in np.flatnonzero(counts >= self.members):
            rows = able[which == i]
            tokens = block_size * _common_blocks(tables[rows], column, int(whole[rows].min()))
            if self.pays(len(rows), tokens):
                found.append(Group(rows, tokens))
        return found


def _common_blocks(tables: np.ndarray, column: int, most: int) -> int:
    """Up to where all rows have the same block, given that they have at ``column``; at most ``most``."""
    low, high = column, most - 1
    while low < high:
        middle = (low + high + 1) // 2
        if (tables[:, middle] == tables[0, middle]).all():
            low = middle
        else:
            high = middle - 1
    return low + 1
