"""Who calls: the key that comes with a request decides the tenant and the role, for every wire."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from chatpager.errors import InvalidAPIKey
from chatpager.store import Role, Store, digest_of

CACHE_SECONDS = 2.0
"""A key that was looked up is believed for so long: a revoked one may be used so much longer."""
MAX_CACHED = 4096
NO_KEY = hashlib.sha256(b"").digest()


@dataclass(frozen=True)
class Caller:
    tenant: str
    role: Role
    key: str = field(default="own", compare=False)
    """As the audit names it."""


OWNER = Caller("default", "admin")
"""Who has the server's own key."""
ANYBODY = Caller("default", "admin", key="none")
"""Who asks a server that has no keys and that only this machine can reach."""
CALLER = web.RequestKey("caller", Caller)
"""Of every request but those for public routes: a route that asks for it there fails."""


class Keyring:
    """The server's own key (``--api-key``) and those in the store. ``keyless``: without a key of its own, and for as
    long as none was ever stored, the server is open to whoever reaches it."""

    def __init__(
        self,
        own: str | None,
        store: Store,
        *,
        keyless: bool,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._own = digest_of(own) if own else None
        self._store = store
        self._keyless = keyless and not own
        self.clock, self._wall = clock, wall
        self._open_until = 0.0
        self._looking: asyncio.Task[None] | None = None
        """Whether there are keys: of all who come when that has grown old, one asks the store."""
        self._cached: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    async def caller(self, digest: bytes) -> Caller:
        """Who sent the key with this SHA-256 (``NO_KEY``: none).

        Raises:
            InvalidAPIKey: nobody's, revoked, or expired.
            StoreError: it cannot be looked up now.
        """
        if self._own is not None and hmac.compare_digest(digest, self._own):
            return OWNER
        if await self.open():
            return ANYBODY
        now = self.clock()
        until, found = self._cached.get(digest, (now, None))
        if found is None or until <= now:
            found = await self._look_up(digest, now)
        return found

    async def open(self) -> bool:
        """Whether no key is asked for. Raises StoreError."""
        if not self._keyless:
            return False
        if self._open_until <= self.clock():
            if self._looking is None:
                self._looking = asyncio.ensure_future(self._look_for_keys())
                self._looking.add_done_callback(self._looked)
            await asyncio.shield(self._looking)
        return self._keyless

    async def _look_for_keys(self) -> None:
        now = self.clock()
        if await self._store.keys.any_stored():
            self._keyless = False  # and stays so: no answer that comes late opens the door again
        self._open_until = now + CACHE_SECONDS

    def _looked(self, task: asyncio.Task[None]) -> None:
        """All who wait have the same answer, or the same failure; it is asked again by who comes after them."""
        self._looking = None
        if not task.cancelled():
            task.exception()  # seen, also where all who waited have left

    async def _look_up(self, digest: bytes, now: float) -> Caller:
        self._cached.pop(digest, None)
        key = None if digest == NO_KEY else await self._store.keys.find(digest)
        if key is None or not key.opens(self._wall()):
            sent = "" if digest == NO_KEY else "the key that was sent is not this server's, was revoked or expired; "
            raise InvalidAPIKey(f"{sent}send a key of this server: Authorization: Bearer KEY, or x-api-key: KEY")
        found = Caller(key.tenant, key.role, key.id)
        self._cached[digest] = now + CACHE_SECONDS, found
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return found


KEYRING = web.AppKey("keyring", Keyring)


def tenant_of(request: web.Request) -> str:
    """Whose the request is, and so whose is all that it may see."""
    return request[CALLER].tenant


def digest_sent(request: web.Request) -> bytes:
    """The SHA-256 of the key that came with a request: ``Authorization: Bearer KEY``, or, as Anthropic's clients send
    it, ``x-api-key: KEY``."""
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key:
        key = request.headers.get("x-api-key", "")
    return digest_of(key) if key else NO_KEY
