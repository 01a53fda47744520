"""Keeping conversations' prefixes in the cache: pins that were asked for, and signs of life of those who are there.

The engine's hard leases live from one heartbeat to the next. A conversation that was asked to be kept for longer is
renewed from here until its time has come, so that a server that has died or hangs keeps nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec

from chatpager.engine.heads import TTL_CAPS, LeaseEvent, Strength
from chatpager.engine.messages import CloseSession, CloseTenant, ForkSession, LeaseRequest, ReleaseLease, RewindSession
from chatpager.engine.questions import CacheOf, LargestSessions, LeaseWanted
from chatpager.engine.residence import Residence
from chatpager.engine.stats import PublishedCache, SessionCache
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.heads import names_of, owner_of

LIFE_SECONDS = 60.0
"""A conversation is kept so long after its last turn or its reader's last sign of life, where memory allows."""
BEAT_SECONDS = 20.0
"""Between two signs of life of an open connection: two may be lost before a lease ends."""
KEPT_AT_MOST = 24 * 3600.0
"""Seconds that a conversation can be asked to be kept."""
MOST_TOKENS = 1 << 53
"""More than any conversation has. What is asked for must go through a socket, too, which carries 64 bits."""
MAX_SPANS = 8
"""Of one pin; beyond them the two that end nearest to each other are kept as one."""
MAX_PINS = 1 << 12
MAX_PINS_OF_ONE = 1 << 9
"""Of one tenant: each is renewed at every beat, which the steps wait for."""

Watcher = Callable[[LeaseEvent], None]
Leased = TypeVar("Leased", SessionCache, PublishedCache, Residence)


class Span(NamedTuple):
    """The conversation's first ``tokens`` (``inf``: all of them), kept ``until`` then."""

    tokens: float
    until: float


@dataclass
class Pin:
    """A hard lease that is renewed until its last span ends, on what the longest of those that have not covers; who is
    connected puts their ends off."""

    spans: list[Span]

    @property
    def until(self) -> float:
        return max(span.until for span in self.spans)

    def tokens(self, now: float) -> int | None:
        """That are to be kept now; None: all."""
        longest = max(span.tokens for span in self.spans if span.until > now)
        return None if longest == math.inf else int(longest)

    def with_span(self, new: Span, now: float) -> Pin:
        """Also this one; without those that it covers for as long, and those that have ended."""
        return Pin(_needed([*(span for span in self.spans if span.until > now), new]))

    def put_off(self, until: float, now: float) -> Pin:
        running = [span for span in self.spans if span.until > now] or [max(self.spans, key=lambda span: span.until)]
        return Pin(_needed([span._replace(until=max(span.until, until)) for span in running]))


def _needed(spans: list[Span]) -> list[Span]:
    """Without those that another covers for as long: the more tokens, the sooner they end."""
    needed: list[Span] = []
    for span in sorted(spans, reverse=True):
        if not needed or span.until > needed[-1].until:
            needed.append(span)
    while len(needed) > MAX_SPANS:
        i = min(range(len(needed) - 1), key=lambda i: needed[i + 1].until - needed[i].until)
        needed[i : i + 2] = [Span(needed[i].tokens, needed[i + 1].until)]
    return needed


class Keeper:
    def __init__(self, engine: EngineHost, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._pins: OrderedDict[str, Pin] = OrderedDict()
        self._watchers: dict[str, set[Watcher]] = {}

    async def pin(
        self,
        owner: str,
        strength: Strength,
        seconds: float,
        tokens: int | None = None,
        reason: str = "",
        *,
        replaces: bool = False,
    ) -> LeaseEvent | None:
        """Ask for a lease; what was granted, if only no tokens. None: nothing of this conversation is on the device. A
        hard one for longer than one lease lasts is renewed until its time has come. Unless it ``replaces`` what was
        asked for before, that is not shortened.

        Raises:
            EngineStopped: there is no engine any more.
        """
        if tokens is not None and tokens > MOST_TOKENS:
            tokens = None
        ttl = min(seconds, TTL_CAPS[strength])
        request = LeaseRequest(owner=owner, strength=strength, ttl=ttl, tokens=tokens, reason=reason, replaces=replaces)
        if strength is Strength.SOFT:
            event = await self._engine.ask(LeaseWanted(request))
            if replaces and event is not None and event.tokens:
                self._pins.pop(owner, None)
            return event
        before = self._pins.get(owner)
        # Before the engine is asked: what ends the pin meanwhile ends it.
        self._note(owner, seconds, tokens, replaces=replaces)
        event = await self._engine.ask(LeaseWanted(request))
        if event is None or not event.tokens:
            self._pins.pop(owner, None)
            if before is not None:
                self._pins[owner] = before
            return event
        pin = self._pins.get(owner)
        left = pin.until - self._clock() if pin else 0.0
        return msgspec.structs.replace(event, seconds_left=max(event.seconds_left, left))

    def keep(self, owner: str, seconds: float, tokens: int | None = None) -> None:
        """Keep all that the conversation's turn left, or its first ``tokens``, for so long from now or until it was
        asked to be kept before."""
        if owner and seconds > 0:
            self._note(owner, seconds, tokens)
            self._renew(owner)

    def wait(self, owner: str, seconds: float, reason: str) -> None:
        """Keep softly, for so long, what the conversation's turn left: somebody works at its next one."""
        with suppress(EngineStopped):
            self._engine.send(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=seconds, reason=reason))
        self._renew(owner)

    def _note(self, owner: str, seconds: float, tokens: int | None, *, replaces: bool = False) -> None:
        now = self._clock()
        span = Span(math.inf if tokens is None else tokens, now + min(seconds, KEPT_AT_MOST))
        before = self._pins.pop(owner, None)
        pin = Pin([span]) if before is None or replaces else before.with_span(span, now)
        tenant, _ = names_of(owner)
        of_one = [pinned for pinned in self._pins if names_of(pinned)[0] == tenant]
        self._pins[owner] = pin
        if len(of_one) >= MAX_PINS_OF_ONE:
            del self._pins[of_one[0]]
        elif len(self._pins) > MAX_PINS:
            self._pins.popitem(last=False)

    def _renew(self, owner: str) -> None:
        """Renew a pin for as long as it has left; one whose time has come is forgotten."""
        pin = self._pins.get(owner)
        if pin is None:
            return
        now = self._clock()
        if pin.until <= now:
            del self._pins[owner]
            return
        ttl, tokens = min(pin.until - now, LIFE_SECONDS), pin.tokens(now)
        with suppress(EngineStopped):
            self._engine.send(LeaseRequest(owner=owner, strength=Strength.HARD, ttl=ttl, tokens=tokens, replaces=True))

    def beat(self) -> None:
        """Renew what is to be kept whoever is connected."""
        for owner in list(self._pins):
            self._renew(owner)

    async def run(self) -> None:
        """Renew for as long as the server runs."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self.beat()

    def unpin(self, owner: str) -> None:
        """End the conversation's leases. Raises EngineStopped."""
        self._pins.pop(owner, None)
        self._engine.send(ReleaseLease(owner))

    def forked(self, owner: str, new_owner: str, tokens: int | None) -> None:
        """A conversation begins with the first ``tokens`` of another one (None: with all of it)."""
        with suppress(EngineStopped):
            self._engine.send(ForkSession(owner=owner, new_owner=new_owner, tokens=tokens))

    def rewound(self, owner: str, tokens: int) -> None:
        """The conversation has only its first ``tokens`` any more."""
        with suppress(EngineStopped):
            self._engine.send(RewindSession(owner=owner, tokens=tokens))

    def closed(self, owner: str) -> None:
        """The conversation was deleted."""
        self._pins.pop(owner, None)
        with suppress(EngineStopped):
            self._engine.send(CloseSession(owner))

    def closed_all(self, tenant: str) -> None:
        """All conversations of a tenant were deleted."""
        for owner in [owner for owner in self._pins if names_of(owner)[0] == tenant]:
            del self._pins[owner]
        with suppress(EngineStopped):
            self._engine.send(CloseTenant(tenant))

    def replaced(self, owner: str, by: str) -> None:
        """Both are heads of the same conversation, and ``by`` goes on with it: a pin on it is no shorter."""
        pin = self._pins.get(owner)
        self.closed(owner)
        for span in pin.spans if pin is not None else ():
            if span.until > self._clock():
                tokens = None if span.tokens == math.inf else int(span.tokens)
                self._note(by, span.until - self._clock(), tokens)
        self._renew(by)

    def alive(self, owners: Iterable[str], *, connected: bool = False) -> None:
        """Somebody is there for these conversations, or was until now: they are kept softly. What is pinned stays so
        for as long as somebody is ``connected``."""
        now = self._clock()
        for owner in filter(None, owners):
            with suppress(EngineStopped):
                self._engine.send(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=LIFE_SECONDS))
            pin = self._pins.get(owner)
            if pin is not None and connected:
                self._pins[owner] = pin.put_off(now + LIFE_SECONDS, now)
            self._renew(owner)

    async def cache_of(self, owner: str) -> SessionCache | None:
        """What of a conversation is in the cache now; None: nothing is known of it. Raises EngineStopped."""
        found = await self._engine.ask(CacheOf(owner))
        return found and self.with_pin(owner, found)

    def with_pin(self, owner: str, found: Leased) -> Leased:
        """A pin's lease ends with the pin, however short it is until its next renewal."""
        pin = self._pins.get(owner)
        if pin is None:
            return found
        left = pin.until - self._clock()
        leases = [
            msgspec.structs.replace(lease, seconds_left=max(lease.seconds_left, left))
            if lease.strength is Strength.HARD
            else lease
            for lease in found.leases
        ]
        return msgspec.structs.replace(found, leases=leases)

    async def largest(self, tenant: str | None, limit: int) -> list[tuple[str, SessionCache]]:
        """The owners, of this tenant or of all, that have most on the device. Raises EngineStopped."""
        prefix = "" if tenant is None else owner_of(tenant, "")
        found = await self._engine.ask(LargestSessions(prefix, limit))
        return [(owner, self.with_pin(owner, cache)) for owner, cache in found]

    # -- who wants to know --------------------------------------------------------------------------------------------

    def watch(self, owner: str, watcher: Watcher) -> None:
        self._watchers.setdefault(owner, set()).add(watcher)

    def unwatch(self, owner: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(owner, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(owner, None)

    def tell(self, events: list[LeaseEvent]) -> None:
        """What became of leases, to those who watch."""
        for event in events:
            if event.strength is Strength.HARD and self._is_over(event):
                self._pins.pop(event.owner, None)
            for watcher in list(self._watchers.get(event.owner, ())):
                watcher(event)

    def _is_over(self, event: LeaseEvent) -> bool:
        """Whether the pin ends with this lease: not where only its renewal came late."""
        pin = self._pins.get(event.owner)
        late = pin is not None and event.change == "expired" and pin.until > self._clock()
        return event.change in ("revoked", "expired", "released") and not late
