"""What a tenant may ask for in a minute, in all its keys and sockets together: requests, and tokens.

Tokens are taken before they are computed: a turn takes its prompt, and all that it may answer, and gives back at its
end what it has not said. So whoever begins many at once oversteps by one of them at the most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatpager.errors import RateLimited

if TYPE_CHECKING:
    from chatpager.sessions.turn import LiveTurn

MINUTE = 60.0
SOON = 0.05
"""Seconds that somebody who is refused is told to wait, at least."""


class Asked(NamedTuple):
    """Who asks, and how."""

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

    def wait(self, now: float, least: float) -> float:
        """Seconds until ``least`` of them are there; 0: they are."""
        return max(0.0, (least - self.left(now)) * MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """A negative amount is given back."""
        self._left = min(float(self.per_minute), self.left(now) - amount)


@dataclass(frozen=True)
class Allowed:
    """In a minute; None: any number."""

    requests: int | None = None
    tokens: int | None = None


class _Account:
    """What one tenant has left."""

    def __init__(self, who: str, allowed: Allowed, now: float) -> None:
        self._who = who
        self.requests = Rate(allowed.requests, now) if allowed.requests is not None else None
        self.tokens = Rate(allowed.tokens, now) if allowed.tokens is not None else None

    def check_request(self, now: float) -> None:
        if self.requests and (seconds := self.requests.wait(now, 1)):
            raise _refusal(f"{self._who} may ask {self.requests.per_minute} times in a minute", seconds)

    def check_tokens(self, now: float) -> None:
        """One left is enough: the turn that oversteps is paid for before the next."""
        if self.tokens and (seconds := self.tokens.wait(now, 1)):
            told = f"{self._who} may use {self.tokens.per_minute} tokens in a minute, prompts and answers"
            raise _refusal(f"{told}; ask for shorter answers (max_output_tokens)", seconds)


def _refusal(told: str, seconds: float) -> RateLimited:
    seconds = max(SOON, seconds)
    return RateLimited(f"{told}; try again in {math.ceil(seconds)} s", retry_after=seconds)


class _Taken(NamedTuple):
    accounts: tuple[_Account, ...]
    prompt: int
    answer: int


class Quotas:
    """``default`` is every tenant's. ``clock`` is in seconds and never goes back. One event loop owns it; what it
    counts ends with the process."""

    def __init__(self, default: Allowed = Allowed(), clock: Callable[[], float] = time.monotonic) -> None:
        self.default = default
        self._clock = clock
        self._tenants: dict[str, _Account] = {}
        self._taken: dict[str, _Taken] = {}
        """By turn."""

    def request(self, tenant: str) -> None:
        """One more. Raises RateLimited: too many for now; it is not counted."""
        now, accounts = self._clock(), self._accounts(tenant)
        for account in accounts:
            account.check_request(now)
        for account in accounts:
            if account.requests:
                account.requests.take(1, now)

    def ask(self, tenant: str) -> None:
        """A turn is asked for. Raises RateLimited."""
        if not ASKED.get(NOBODY).counted:
            self.request(tenant)
        now = self._clock()
        for account in self._accounts(tenant):
            account.check_tokens(now)

    def reserve(self, turns: Sequence[LiveTurn], longest: int) -> None:
        """Take what the choices of one request may need; ``longest``: prompt and answer together, in tokens. To be
        called again for the same turns before anything else is awaited changes nothing.

        Raises:
            RateLimited: nothing is left; nothing was taken.
        """
        first = turns[0]
        now, accounts = self._clock(), tuple(a for a in self._accounts(first.request.tenant) if a.tokens)
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
        """The turn has ended: what it has not said is given back."""
        if taken := self._taken.pop(turn.id, None):
            self._take(taken.accounts, min(0, len(turn.token_ids) - taken.answer), self._clock())

    @staticmethod
    def _take(accounts: Sequence[_Account], amount: float, now: float) -> None:
        for account in accounts:
            if account.tokens:
                account.tokens.take(amount, now)

    def _accounts(self, tenant: str) -> Sequence[_Account]:
        if self.default == Allowed():
            return ()
        if tenant not in self._tenants:
            self._tenants[tenant] = _Account("this tenant", self.default, self._clock())
        return (self._tenants[tenant],)
