"""The event loop of a process that has thousands of sockets."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque

AT_ONCE = 64
"""Sockets that are looked after in one round of the loop: where thousands end at once nobody else would have a turn."""


class FewAtOnce(selectors.DefaultSelector):
    """Hands over what is ready some at a time, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self._ready: deque[tuple[selectors.SelectorKey, int]] = deque()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._ready:
            ready = super().select(timeout)
            if len(ready) <= AT_ONCE:
                return ready
            self._ready.extend(ready)
        known, some = self.get_map(), []
        for _ in range(min(AT_ONCE, len(self._ready))):
            key, events = self._ready.popleft()
            if known.get(key.fd) is key:  # else it was closed, or waits for something else: that is told anew
                some.append((key, events))
        return some


def event_loop_runner() -> asyncio.Runner:
    """On uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FewAtOnce()))
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
