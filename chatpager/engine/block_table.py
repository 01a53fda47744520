"""Which blocks a sequence's tokens are in, in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np


class BlockTable(list[int]):
    """Ids of blocks, and the same as an array that steps copy: an id is converted once, when it comes into the table,
    not once a step. What lists can do beyond growing, replacing one id and becoming empty, a table cannot."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        super().__init__(ids)
        self._array = np.array(self, dtype=np.int32)

    @property
    def array(self) -> np.ndarray:
        """[len] int32; read it before the table changes."""
        return self._array[: len(self)]

    def extend(self, ids: Iterable[int]) -> None:
        ids = list(ids)
        before, after = len(self), len(self) + len(ids)
        if after > len(self._array):
            grown = np.empty(max(after, 2 * before, 8), dtype=np.int32)
            grown[:before] = self._array[:before]
            self._array = grown
        self._array[before:after] = ids
        super().extend(ids)  # last: whoever interrupts this finds the table as it was

    def append(self, id: int) -> None:
        self.extend((id,))

    def __iadd__(self, ids: Iterable[int]) -> BlockTable:  # type: ignore[override, misc]
        self.extend(ids)
        return self

    def __setitem__(self, place: Any, id: Any) -> None:
        if isinstance(place, slice):
            self._cannot()
        self.array[place] = id
        super().__setitem__(place, id)

    def _cannot(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a block table grows, has one id replaced, or is emptied")

    insert = pop = remove = sort = reverse = __delitem__ = __imul__ = _cannot
