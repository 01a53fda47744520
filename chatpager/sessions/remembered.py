"""Token ids of past turns, by the message they led to."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from chatpager.store import MessageHash


class Past(NamedTuple):
    """What was computed, and the label of the prefix that it began with: under another one its blocks have other
    names."""

    ids: Sequence[int]
    published: str | None


class Remembered:
    """Holds ``budget`` ids in all, of ``entries`` messages; the ones unused for longest are forgotten first."""

    def __init__(self, budget: int, entries: int = 1 << 16) -> None:
        self._budget = budget
        self._entries = entries
        self._held = 0
        self._past: OrderedDict[MessageHash, Past] = OrderedDict()

    def get(self, tip: MessageHash | None) -> Past | None:
        if tip is None or tip not in self._past:
            return None
        self._past.move_to_end(tip)
        return self._past[tip]

    def put(self, tip: MessageHash, ids: Sequence[int], published: str | None = None) -> None:
        if before := self._past.pop(tip, None):
            self._held -= len(before.ids)
        self._held += len(ids)
        self._past[tip] = Past(array("I", ids), published)
        while self._held > self._budget or len(self._past) > self._entries:
            self._held -= len(self._past.popitem(last=False)[1].ids)

    def clear(self) -> None:
        self._past.clear()
        self._held = 0
