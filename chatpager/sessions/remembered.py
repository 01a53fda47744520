"""Token ids of past turns, by the message they led to."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from chatpager.store import MessageHash


class Remembered:
    """Holds ``budget`` ids in all, of ``entries`` messages; the ones unused for longest are forgotten first."""

    def __init__(self, budget: int, entries: int = 1 << 16) -> None:
        self._budget = budget
        self._entries = entries
        self._held = 0
        self._ids: OrderedDict[MessageHash, array[int]] = OrderedDict()

    def get(self, tip: MessageHash | None) -> Sequence[int] | None:
        if tip is None or tip not in self._ids:
            return None
        self._ids.move_to_end(tip)
        return self._ids[tip]

    def put(self, tip: MessageHash, ids: Sequence[int]) -> None:
        self._held += len(ids) - len(self._ids.get(tip, ()))
        self._ids[tip] = array("I", ids)
        self._ids.move_to_end(tip)
        while self._held > self._budget or len(self._ids) > self._entries:
            self._held -= len(self._ids.popitem(last=False)[1])
