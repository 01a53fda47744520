"""The memory of bodies and frames, of all connections together: of those that arrive, and until they are dealt with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from chatpager.errors import Overloaded, RateLimited
from chatpager.sessions.fair_places import FairPlaces

FREE = 64 << 10
"""Bytes that every connection has without asking, as many as aiohttp reads ahead: what is short is never refused."""
ARRIVING = web.AppKey("arriving", FairPlaces)
"""For bytes."""
CONTROL, LAST = 0x08, 0x80
"""Of a frame's first byte (RFC 6455, 5.2)."""


class Arriving:
    """What one connection of a tenant has of the ``places``."""

    def __init__(self, places: FairPlaces, tenant: str) -> None:
        self._places, self._tenant = places, tenant
        self._bytes = self._taken = 0

    def add(self, count: int) -> None:
        """Raises Overloaded, RateLimited: there is no room for them."""
        more = self._bytes + count - FREE - self._taken
        if more > 0:
            self._places.take(self._tenant, more)
            self._taken += more
        self._bytes += count

    def give_back(self, count: int | None = None) -> None:
        """None: all."""
        self._bytes -= self._bytes if count is None else count
        less = self._taken - max(0, self._bytes - FREE)
        if less > 0:
            self._places.give_back(self._tenant, less)
            self._taken -= less


class FrameCount:
    """A WebSocket's parser, with the bytes counted of messages that are not whole, or not dealt with. It takes nothing
    any more once there is no room: then ``refuse`` is called."""

    def __init__(self, arriving: Arriving) -> None:
        self._arriving = arriving
        self._parser: Any = None
        self._head = bytearray()
        self._left = self._message = 0
        """Bytes of the frame's payload that are to come, and of the message so far."""
        self._whole: deque[int] = deque()
        self._over = False
        self.refused: Overloaded | RateLimited | None = None
        self.refuse: Callable[[Overloaded | RateLimited], None] = _to_nobody

    def before(self, parser: Any) -> FrameCount:
        self._parser = parser
        return self

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self.refused is None and not self._over:
            try:
                self.count(data)
            except (Overloaded, RateLimited) as error:
                self.refused = error
                self.refuse(error)
        if self.refused is not None or self._over:
            return False, b""
        told: tuple[bool, bytes] = self._parser.feed_data(data)
        return told

    def feed_eof(self) -> None:
        self._parser.feed_eof()

    def count(self, data: bytes) -> None:
        """Raises Overloaded, RateLimited."""
        place = 0
        while place < len(data):
            if not self._left:
                place = self._read_head(data, place)
                continue
            step = min(self._left, len(data) - place)
            place, self._left = place + step, self._left - step
            if not self._head[0] & CONTROL:
                self._message += step
                self._arriving.add(step)
            if not self._left:
                self._ended()

    def _read_head(self, data: bytes, place: int) -> int:
        """The place behind what of a frame's head stands there."""
        head = self._head
        missing = _size_of(head) - len(head)
        head += data[place : place + missing]
        if len(head) == _size_of(head):
            length = head[1] & 0x7F
            extended = {126: 2, 127: 8}.get(length, 0)
            self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else length
            if not self._left:
                self._ended()
        return place + missing

    def _ended(self) -> None:
        first, self._head = self._head[0], bytearray()
        if first & CONTROL:  # it may stand between two fragments, and has 125 bytes at the most
            self._whole.append(0)
        elif first & LAST:
            self._whole.append(self._message)
            self._message = 0

    def dealt_with(self) -> None:
        """The first message of those that are whole."""
        if self._whole:
            self._arriving.give_back(self._whole.popleft())

    def keep(self) -> Callable[[], None]:
        """As ``dealt_with``, but its bytes are given back when what is returned is called, once."""
        if not self._whole:
            return lambda: None
        size, self._whole[0] = self._whole[0], 0
        return partial(self._arriving.give_back, size)

    def close(self) -> None:
        """Gives back all, and takes nothing any more; nothing is given back after it."""
        self._over, self.refuse = True, _to_nobody
        self._arriving.give_back()


def _to_nobody(error: Overloaded | RateLimited) -> None:
    """Who refuses what comes holds the socket, and the socket what comes: when it is over nobody holds another."""


def _size_of(head: bytearray) -> int:
    """As far as can be told by now."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)
