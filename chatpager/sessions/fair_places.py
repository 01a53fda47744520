"""Places that tenants share, so that none of them takes all."""

from __future__ import annotations

from collections import Counter

from chatpager.errors import Overloaded, RateLimited

AHEAD = 4
"""A tenant may have so many places for every one that is free: alone four fifths of all, beside another that does the
same four ninths. Who comes after them finds a place."""

LATER = "try again when there are fewer"


class FairPlaces:
    """``total`` places, of which one tenant has ``each`` at the most; None: as many as ``AHEAD`` says, and one
    whenever that is there. ``called``: what takes them, in the words of an error. One event loop owns it."""

    def __init__(self, total: int, each: int | None = None, *, called: str) -> None:
        self.total = total
        self._each = each
        self._called = called
        self._taken: Counter[str] = Counter()
        """By tenant, of those that have any."""
        self.taken = 0

    def take(self, tenant: str, count: int = 1) -> None:
        """All of the ``count`` or none.

        Raises:
            Overloaded: there are not so many.
            RateLimited: there are, but not for this tenant.
        """
        if self.taken + count > self.total:
            told = f"{self.taken} of at most {self.total} {self._called}; {LATER}"
            raise Overloaded(told, retry_after=1.0)
        own, left = self._taken.get(tenant, 0), self.total - self.taken - count
        if self._each is not None and own + count > self._each:
            told = f"{own} of this tenant's at most {self._each} {self._called}; {LATER}"
            raise RateLimited(told, retry_after=1.0)
        if self._each is None and own + count > max(1, AHEAD * (left + 1)):
            told = f"{own} {self._called} for this tenant, and others need room too; {LATER}"
            raise RateLimited(told, retry_after=1.0)
        self._taken[tenant] += count
        self.taken += count

    def give_back(self, tenant: str, count: int = 1) -> None:
        self.taken -= count
        self._taken[tenant] -= count
        if not self._taken[tenant]:
            del self._taken[tenant]
