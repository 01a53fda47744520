"""Whose turn it is where only one can be served at a time: tenants take turns, and of each only so many may wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress

from chatpager.errors import RateLimited

FORGET = 0.8
"""How much of what is known of the time that one takes is kept when the next has ended."""
SOON, LATE = 1.0, 60.0
"""Seconds that somebody who is sent away is told to stay away, at least and at most."""


class FairQueue:
    """Somebody who waits is passed over once by each other tenant, however many of its requests wait. One event loop
    owns it."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``most``: of one tenant that may wait."""
        self._most = most
        self._clock = clock
        self._served_since: float | None = None
        self._pace = 0.0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By tenant, the one whose turn comes next first; none of them is empty."""

    async def enter(self, tenant: str) -> None:
        """Wait to be served; then ``leave`` is to be called.

        Raises:
            RateLimited: so many of this tenant wait already.
        """
        if self._served_since is None:
            self._served_since = self._clock()
            return
        line = self._waiting.get(tenant, deque())
        if len(line) >= self._most:
            seconds = self._pace * len(line) * len(self._waiting)
            raise RateLimited(
                f"{len(line)} grammars of yours wait to be compiled; try again later",
                retry_after=min(max(seconds, SOON), LATE),
            )
        called = asyncio.get_running_loop().create_future()
        line.append(called)
        self._waiting.setdefault(tenant, line)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._call_next()  # it was called, and did not come
            else:
                self._remove(tenant, called)
            raise

    def leave(self) -> None:
        """Who was served is done."""
        assert self._served_since is not None, "nobody was served"
        self._pace = FORGET * self._pace + (1 - FORGET) * (self._clock() - self._served_since)
        self._call_next()

    def _call_next(self) -> None:
        self._served_since = None
        while self._waiting and self._served_since is None:
            tenant, line = self._waiting.popitem(last=False)
            while line and line[0].done():  # it gave up, and its task has not run since
                line.popleft()
            if not line:
                continue
            self._served_since = self._clock()
            line.popleft().set_result(None)
            if line:
                self._waiting[tenant] = line

    def _remove(self, tenant: str, called: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant, deque())
        with suppress(ValueError):  # it was passed over
            line.remove(called)
        if not line:
            self._waiting.pop(tenant, None)
