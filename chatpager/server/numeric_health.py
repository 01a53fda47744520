"""A model whose logits are no numbers again and again is ill, or its memory is: somebody else should be asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from chatpager.errors import NumericError
from chatpager.sessions.stream import Ended

MOST, SECONDS = 3, 60.0


class NumericHealth:
    """Bad after more than ``MOST`` such ends in any ``SECONDS``, and good again when they are so long ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._times: deque[float] = deque(maxlen=MOST + 1)

    def turn_ended(self, ended: Ended) -> None:
        if ended.error_code == NumericError.code:
            self._times.append(self.clock())

    @property
    def good(self) -> bool:
        return len(self._times) <= MOST or self.clock() - self._times[0] >= SECONDS
