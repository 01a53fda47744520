"""Whose turn it is among tenants: in each round that is served, one request of every tenant that waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable


class Rounds:
    """One waiting request of each tenant is of a round, or as many as its weight says. One that comes gets the earliest
    round of those that wait, or a later one if its tenant has others waiting: who has sent a thousand waits for itself,
    and everybody else for one of them. (As start-time fair queueing, every request being worth the same.)"""

    def __init__(self) -> None:
        self._served = 0
        self._waiting: Counter[Hashable] = Counter()
        """Requests by tenant, of those that have any."""
        self._last: dict[Hashable, tuple[int, int]] = {}
        """The latest round of each of them, and how many of its requests are of that."""

    def joined(self, tenant: Hashable, earliest: int | None, weight: int = 1) -> int:
        """The round of a request that begins to wait; ``earliest``: of those that do, if any. It may be behind the one
        that was begun last: what is begun is not always what has waited longest."""
        number = self._served if earliest is None else min(earliest, self._served)
        last, count = self._last.get(tenant, (number - 1, 0))
        if number <= last:
            number = last if count < weight else last + 1
        self._last[tenant] = number, count + 1 if number == last else 1
        self._waiting[tenant] += 1
        return number

    def left(self, tenant: Hashable) -> None:
        """One waits no more, for whatever reason."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant], self._last[tenant]

    def begun(self, number: int) -> None:
        """A request of this round has waited long enough."""
        self._served = max(self._served, number)
