"""Token ids of rendered pieces of conversations: the next turn renders all of them again."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable

LARGEST_SHARE = 8
ENTRY_BYTES = 120
"""What one entry takes besides its text and its ids."""


class RememberedPieces:
    """Holds about ``budget`` bytes of texts and ids; the ones unused for longest are forgotten first. One thread's.
    Nobody gets what is another's: how soon its ids come would tell that it was written before.

    A piece of more than an eighth of the budget is not kept: it would push out too many others.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._ids: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self.held = 0
        """Bytes."""

    def get(self, text: str, whose: str = "") -> array[int] | None:
        ids = self._ids.get((whose, text))
        if ids is not None:
            self._ids.move_to_end((whose, text))
        return ids

    def put(self, text: str, ids: Iterable[int], whose: str = "") -> array[int]:
        """Remember the ids of ``text``, and give them back."""
        packed = array("I", ids)
        size = _size(text, packed)
        if size * LARGEST_SHARE > self._budget or (whose, text) in self._ids:
            return packed
        self._ids[whose, text] = packed
        self.held += size
        while self.held > self._budget:
            (_, forgotten), its_ids = self._ids.popitem(last=False)
            self.held -= _size(forgotten, its_ids)
        return packed


def _size(text: str, ids: array[int]) -> int:
    return sys.getsizeof(text) + sys.getsizeof(ids) + ENTRY_BYTES
