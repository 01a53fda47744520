"""What a tenant may ask for in a minute, in all its keys and sockets together, and what one of its keys: requests, and
tokens. And who is paused.

Tokens are taken before they are computed: a turn takes its prompt, and all that it may answer, and gives back at its
end what it has not said. So whoever begins many at once oversteps by one of them at the most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatpager.errors import RateLimited, TenantPaused
from chatpager.store import Limits

if TYPE_CHECKING:
    from chatpager.sessions.turn import LiveTurn

MINUTE = 60.0
SOON = 0.05
"""Seconds that somebody who is refused is told to wait, at least."""


class Asked(NamedTuple):
    """Who asks, and how."""

    key: str = ""
    """By its id; "": nobody's."""
    counted: bool = True
    """As a request of its own, where it came in. What comes on a WebSocket is not."""


ASKED: ContextVar[Asked] = ContextVar("asked")
"""Of the request that this task serves."""
NOBODY = Asked()


class Rate:
    """``per_minute`` at first and at the most, and so many come back in a minute. What is taken may leave a debt, and
    while there is one nothing more is given. Times are in seconds."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left, self._at = float(per_minute), now

    def left(self, now: float) -> float:
        back = max(0.0, now - self._at) * self.per_minute / MINUTE
        self._left, self._at = min(float(self.per_minute), self._left + back), now
        return self._left

    def change(self, per_minute: int, now: float) -> None:
        """What is left stays so, but for what would be too much."""
        self._left = min(float(per_minute), self.left(now))
        self.per_minute = per_minute

    def wait(self, now: float, least: float) -> float:
        """Seconds until ``least`` of them are there; 0: they are."""
        return max(0.0, (least - self.left(now)) * MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """A negative amount is given back."""
        self._left = min(float(self.per_minute), self.left(now) - amount)


@dataclass(frozen=True)
class Allowed:
    """In a minute, and of conversations in all; None: any number."""

    requests: int | None = None
    tokens: int | None = None
    conversations: int | None = None


class Account:
    """What one tenant, or one key, has left. ``who``: in the words of an error."""

    requests: Rate | None = None
    tokens: Rate | None = None

    def __init__(self, who: str, allowed: Allowed, now: float) -> None:
        self._who = who
        self.allow(allowed, now)

    def allow(self, allowed: Allowed, now: float) -> None:
        """From now on; what was taken stays taken."""
        self.allowed = allowed
        self.requests = _changed(self.requests, allowed.requests, now)
        self.tokens = _changed(self.tokens, allowed.tokens, now)

    def check_request(self, now: float) -> None:
        if self.requests and (seconds := self.requests.wait(now, 1)):
            raise _refusal(f"{self._who} may ask {self.requests.per_minute} times in a minute", seconds)

    def check_tokens(self, now: float) -> None:
        """One left is enough: the turn that oversteps is paid for before the next. What turns that run have taken of
        tokens they may give back at any time, so nobody is told to wait for more than a minute."""
        if self.tokens and (seconds := self.tokens.wait(now, 1)):
            told = f"{self._who} may use {self.tokens.per_minute} tokens in a minute, prompts and answers"
            raise _refusal(f"{told}; ask for shorter answers (max_output_tokens)", min(MINUTE, seconds))


def _changed(rate: Rate | None, per_minute: int | None, now: float) -> Rate | None:
    if rate is None or per_minute is None:
        return None if per_minute is None else Rate(per_minute, now)
    rate.change(per_minute, now)
    return rate


def _refusal(told: str, seconds: float) -> RateLimited:
    seconds = max(SOON, seconds)
    return RateLimited(f"{told}; try again in {math.ceil(seconds)} s", retry_after=seconds)


class _Taken(NamedTuple):
    accounts: tuple[Account, ...]
    prompt: int
    answer: int


class Quotas:
    """``default`` is every tenant's that has no limits of its own; a key has none but its own. ``clock`` is in seconds
    and never goes back. One event loop owns it; what it counts ends with the process."""

    def __init__(self, default: Allowed | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.default = default or Allowed()
        self._clock = clock
        self.limits: dict[tuple[str, str], Limits] = {}
        """Those that are stored, by kind and name."""
        self._accounts: dict[tuple[str, str], Account] = {}
        self._taken: dict[str, _Taken] = {}
        """By turn."""

    # -- what an operator allows

    def change(self, row: Limits) -> None:
        """It is stored, and holds from now on: for what runs, too."""
        name = row.kind, row.name
        self.limits[name] = row
        if account := self._accounts.get(name):
            account.allow(self.allowed(*name), self._clock())

    def forget_keys(self, open_ones: Collection[str]) -> None:
        """What limits any key but these is stored no more."""
        for name in [name for name in self.limits if name[0] == "key" and name[1] not in open_ones]:
            del self.limits[name]
            self._accounts.pop(name, None)

    def allowed(self, kind: str, name: str) -> Allowed:
        row, default = self.limits.get((kind, name)), self.default if kind == "tenant" else Allowed()
        if row is None:
            return default
        own = Allowed(row.requests_per_minute, row.tokens_per_minute, row.max_conversations)
        return Allowed(
            *(mine if mine is not None else usual for mine, usual in zip(astuple(own), astuple(default), strict=True))
        )

    def paused(self, tenant: str) -> int | None:
        """Since when, in milliseconds."""
        row = self.limits.get(("tenant", tenant))
        return row.paused_at if row else None

    def weight(self, tenant: str) -> int:
        row = self.limits.get(("tenant", tenant))
        return (row.weight if row else None) or 1

    def now(self) -> float:
        return self._clock()

    def account(self, kind: str, name: str) -> Account:
        who = "this tenant" if kind == "tenant" else "this key"
        return self._accounts.get((kind, name)) or Account(who, self.allowed(kind, name), self._clock())

    # -- what is asked

    def check_open(self, tenant: str) -> None:
        """Raises TenantPaused."""
        if self.paused(tenant) is not None:
            raise TenantPaused

    def request(self, tenant: str) -> None:
        """One more.

        Raises:
            TenantPaused: it may ask for nothing.
            RateLimited: too many for now; it is not counted.
        """
        self.check_open(tenant)
        now, accounts = self._clock(), self._asking(tenant)
        for account in accounts:
            account.check_request(now)
        for account in accounts:
            if account.requests:
                account.requests.take(1, now)

    def ask(self, tenant: str) -> None:
        """A turn is asked for. Raises what ``request`` does."""
        self.check_open(tenant)
        if not ASKED.get(NOBODY).counted:
            self.request(tenant)
        now = self._clock()
        for account in self._asking(tenant):
            account.check_tokens(now)

    def reserve(self, turns: Sequence[LiveTurn], longest: int) -> None:
        """Take what the choices of one request may need; ``longest``: prompt and answer together, in tokens. To be
        called again for the same turns before they began changes nothing.

        Raises:
            TenantPaused: since it was asked for.
            RateLimited: nothing is left; nothing was taken.
        """
        first = turns[0]
        self.check_open(first.request.tenant)
        now, accounts = self._clock(), tuple(a for a in self._asking(first.request.tenant) if a.tokens)
        for turn in turns:
            self.release(turn.id)
        for account in accounts:
            account.check_tokens(now)
        if not accounts:
            return
        for turn in turns:
            room, wanted = longest - len(turn.prompt), turn.request.params.max_tokens
            answer = room if wanted is None else min(wanted, room)
            prompt = len(turn.prompt) if turn is first else 0
            self._taken[turn.id] = _Taken(accounts, prompt, answer)
            self._take(accounts, prompt + answer, now)

    def release(self, turn_id: str) -> None:
        """The turn did not begin."""
        if taken := self._taken.pop(turn_id, None):
            self._take(taken.accounts, -(taken.prompt + taken.answer), self._clock())

    def settle(self, turn: LiveTurn) -> None:
        """The turn has ended: what it has not said is given back, and its prompt where nothing was computed of it."""
        if taken := self._taken.pop(turn.id, None):
            unsaid = max(0, taken.answer - len(turn.token_ids))
            self._take(taken.accounts, -unsaid - (taken.prompt if turn.receipt is None else 0), self._clock())

    @staticmethod
    def _take(accounts: Sequence[Account], amount: float, now: float) -> None:
        for account in accounts:
            if account.tokens:
                account.tokens.take(amount, now)

    def _asking(self, tenant: str) -> Sequence[Account]:
        """The tenant's, and its key's, where they have limits."""
        names = [("tenant", tenant), ("key", ASKED.get(NOBODY).key)]
        limited = [name for name in names if self.allowed(*name) != Allowed()]
        for name in limited:
            self._accounts.setdefault(name, self.account(*name))
        return [self._accounts[name] for name in limited]
