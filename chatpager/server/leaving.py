"""Connections that end by the thousand at once, as behind a proxy that was restarted, a few at a time.

What follows on each, up to the end of the request that it had, takes a quarter of a millisecond: ten thousand of them
in one round of the event loop kept all answers waiting for seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 16
"""In one round of the event loop."""


class Leaving:
    """One event loop owns it."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._room = AT_ONCE

    def left(self, end: Callable[[], None]) -> None:
        """Call ``end`` now, or when there is room, in the order in which they came."""
        if not self._room or self._waiting:
            self._waiting.append(end)
            return
        if self._room == AT_ONCE:
            asyncio.get_running_loop().call_soon(self._next_round)
        self._room -= 1
        end()

    def _next_round(self) -> None:
        self._room = AT_ONCE
        if not self._waiting:
            return
        asyncio.get_running_loop().call_soon(self._next_round)
        while self._waiting and self._room:
            self._room -= 1
            self._waiting.popleft()()
