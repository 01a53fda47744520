"""Sessions' claims on their prefixes: for how long blocks are kept for a conversation.

A lease lifts the leading blocks of a session's head (``head_book``) above what they are worth as such, until its
deadline: a soft one above other sessions', a hard one out of eviction's reach. Leases bias eviction and never block
admission: hard ones together have a budget in unique blocks, which leaves room for the longest request, and are clipped
to it rather than refused. Where memory is needed and there is no other, leases are revoked, soft ones before hard ones,
the one with the longest time left first.

A deadline is moved by its holder alone, and earlier only where that is asked for: reading a block does not renew it.
Time comes in with ``tick``, in the seconds of one clock that does not go back.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable

from chatpager.engine.block import Block
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import TTL_CAPS, Head, Lease, LeaseChange, LeaseEvent, Strength

NEEDED = "a request needs the memory"


class LeaseBook:
    """All leases over one pool.

    ``budget`` is the most unique blocks under hard leases; tenants that hold some share it equally. ``reconsider`` is
    told of every block whose eviction class may have changed.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        *,
        budget: int,
        reconsider: Callable[[Block], None],
    ) -> None:
        self.budget = budget
        self.now = 0.0
        self.events: list[LeaseEvent] = []
        """What happened since somebody took them."""
        self.counts: Counter[LeaseChange] = Counter()
        """All that ever happened, what is not told to anybody included."""
        self.heads: OrderedDict[str, Head] = OrderedDict()
        """The session whose turn ended last is the last; ``head_book`` moves them."""
        self._pool = pool
        self._block_size = block_size
        self._reconsider = reconsider
        self._holders: Counter[bytes] = Counter()
        """Hard leases by tenant, of those that have any."""
        self._held: dict[Strength, dict[str, Head]] = {strength: {} for strength in Strength}
        """Those of the heads that have a lease."""
        self._deadlines: list[tuple[float, str, Strength]] = []
        """Heap; an entry whose lease has another deadline by now means nothing."""

    def take_events(self) -> list[LeaseEvent]:
        """What became of leases since the last call."""
        events, self.events = self.events, []
        return events

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do at the earliest."""
        return self._deadlines[0][0] if self._deadlines else None

    def holders(self, strength: Strength) -> dict[str, Head]:
        """The sessions that have a lease of this strength."""
        return self._held[strength]

    def acquire(
        self,
        owner: str,
        strength: Strength,
        ttl: float,
        *,
        tokens: int | None = None,
        reason: str = "",
        replaces: bool = False,
    ) -> LeaseEvent | None:
        """Ask for a lease on the first ``tokens`` of a conversation (None: on all of it), or renew it.

        It is granted as far as the budget goes, for at most ``TTL_CAPS``; neither its deadline nor its span is
        shortened, unless it ``replaces`` what was asked for before. None: nothing of this session is on the device, so
        there is nothing to keep. One that would cover nothing is clipped to no tokens, and there is no lease.
        """
        head = self.heads.get(owner)
        if head is None or not head.resident():
            return None
        span = None if tokens is None else -(-tokens // self._block_size)
        deadline = self.now + min(ttl, TTL_CAPS[strength])
        lease = head.leases.get(strength)
        before = lease.covered if lease else 0
        change: LeaseChange = "renewed"
        if lease is None:
            lease = head.leases[strength] = Lease(strength, deadline, span, reason=reason)
            if strength is Strength.HARD:
                self._holders[head.tenant] += 1
            self._held[strength][owner] = head
            change = "granted"
        else:
            self._renew(head, lease, deadline, span, reason, replaces=replaces)
        heapq.heappush(self._deadlines, (lease.deadline, owner, strength))
        self._make_room(head, lease)
        self._cover(head, lease)
        if lease.covered < self._wanted(head, lease):
            change = "clipped"
        event = self._event(owner, head, lease, change)
        if change == "granted" or lease.covered != before:
            self.events.append(event)
        if lease.covered:
            head.expired_at = head.revoked_at = None
        else:
            self._drop(owner, head, lease)
        return event

    def _renew(
        self, head: Head, lease: Lease, deadline: float, span: int | None, reason: str, *, replaces: bool
    ) -> None:
        if replaces or deadline > lease.deadline:
            lease.deadline, lease.reason = deadline, reason
        if replaces:
            self._uncover(head, lease, len(head.chain) if span is None else span)
            lease.span = span
        else:
            lease.span = None if lease.span is None or span is None else max(lease.span, span)

    def release(self, owner: str, strength: Strength | None = None) -> None:
        """End the leases of a session, or only that of one strength."""
        head = self.heads.get(owner)
        for lease in list(head.leases.values()) if head else []:
            if strength in (None, lease.strength):
                self._end(owner, lease, "released")

    def tick(self, now: float) -> None:
        """It is ``now``: end the leases whose deadline has come."""
        self.now = self._pool.now = now
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, owner, strength = heapq.heappop(self._deadlines)
            head = self.heads.get(owner)
            lease = head.leases.get(strength) if head else None
            if head and lease and lease.deadline == deadline:
                self._end(owner, lease, "expired")
                head.expired_at = None if head.leases else now

    def revoke(self, blocks: int) -> bool:
        """Progress goes before leases: end hard ones until ``blocks`` more can be allocated. Whether any ended."""
        before, ended = self._pool.available, False
        for owner, lease in self._idle(Strength.HARD):
            if self._pool.available - before >= blocks:
                break
            self._end(owner, lease, "revoked", NEEDED)
            ended = True
        return ended

    def give_way(self) -> None:
        """Nothing is left to evict but what is under soft leases: end one of them."""
        owner, lease = self._idle(Strength.SOFT)[0]
        self._end(owner, lease, "revoked", NEEDED)

    def _idle(self, strength: Strength) -> list[tuple[str, Lease]]:
        """Leases of sessions that do not run, the one with the longest time left first."""
        found = [(o, h.leases[strength]) for o, h in self._held[strength].items() if h.is_idle()]
        return sorted(found, key=lambda pair: pair[1].deadline, reverse=True)

    def _make_room(self, head: Head, lease: Lease) -> None:
        """Where others hold more than an equal share of the budget and this tenant less, theirs end."""
        if self._holders.total() == self._holders[head.tenant]:
            return
        wanted = self._wanted(head, lease) - lease.covered
        if lease.strength is not Strength.HARD or self._pool.leased + wanted <= self.budget:
            return
        held = self.leased_by_tenant()
        share = self.budget // len(held.keys() | {head.tenant})
        wanted = min(wanted, share - held.get(head.tenant, 0))
        for owner, theirs in self._idle(Strength.HARD) if wanted > 0 else ():
            tenant = self.heads[owner].tenant
            if self._pool.leased + wanted <= self.budget:
                return
            if tenant != head.tenant and held.get(tenant, 0) > share:
                held[tenant] -= theirs.covered
                self._end(owner, theirs, "revoked", "its tenant holds more than its share")

    def leased_by_tenant(self) -> dict[bytes, int]:
        """Unique blocks under hard leases, by tenant."""
        blocks: dict[bytes, set[int]] = {}
        for head in self._held[Strength.HARD].values():
            if (lease := head.leases[Strength.HARD]).covered:
                blocks.setdefault(head.tenant, set()).update(
                    block.id for block, born in head.chain[: lease.covered] if block.born == born
                )
        return {tenant: len(ids) for tenant, ids in blocks.items()}

    def _wanted(self, head: Head, lease: Lease) -> int:
        return len(head.chain) if lease.span is None else min(lease.span, len(head.chain))

    def _cover(self, head: Head, lease: Lease) -> None:
        """Count the lease on as many leading blocks as it asks for, are still there, and fit the budget."""
        for block, born in head.chain[lease.covered : self._wanted(head, lease)]:
            if block.born != born:
                return
            hard = lease.strength is Strength.HARD
            if hard and not block.hard and self._pool.leased >= self.budget:
                return
            self._pool.lease(block, 1, hard=hard)
            lease.covered += 1
            self._reconsider(block)

    def follow(self, head: Head) -> None:
        """It has grown: its leases cover more, as far as they go."""
        for lease in head.leases.values():
            self._cover(head, lease)

    def shrink(self, head: Head, keep: int) -> None:
        """It is about to have no more than its first ``keep`` blocks."""
        for lease in head.leases.values():
            self._uncover(head, lease, keep)

    def drop_all(self, owner: str, head: Head) -> None:
        """It is about to go, and its leases with it; nobody is told."""
        for lease in list(head.leases.values()):
            self._drop(owner, head, lease)

    def _uncover(self, head: Head, lease: Lease, keep: int) -> None:
        """Take the lease off all blocks but the first ``keep``."""
        for block, born in head.chain[keep : lease.covered]:
            if block.born != born:
                continue
            self._pool.lease(block, -1, hard=lease.strength is Strength.HARD)
            self._reconsider(block)
        lease.covered = min(lease.covered, keep)

    def _end(self, owner: str, lease: Lease, change: LeaseChange, reason: str = "") -> None:
        head = self.heads[owner]
        self._tell(owner, head, lease, change, reason)
        self._drop(owner, head, lease)
        if reason == NEEDED:
            head.revoked_at = self.now

    def _drop(self, owner: str, head: Head, lease: Lease) -> None:
        self._uncover(head, lease, 0)
        del head.leases[lease.strength], self._held[lease.strength][owner]
        if lease.strength is Strength.HARD:
            self._holders[head.tenant] -= 1
            if not self._holders[head.tenant]:
                del self._holders[head.tenant]

    def _tell(self, owner: str, head: Head, lease: Lease, change: LeaseChange, reason: str = "") -> None:
        self.events.append(self._event(owner, head, lease, change, reason))

    def _event(self, owner: str, head: Head, lease: Lease, change: LeaseChange, reason: str = "") -> LeaseEvent:
        self.counts[change] += 1
        return LeaseEvent(
            owner=owner,
            change=change,
            strength=lease.strength,
            tokens=head.tokens(min(lease.covered, head.resident()), self._block_size),
            seconds_left=max(0.0, lease.deadline - self.now),
            reason=reason or lease.reason,
        )

    def audit(self) -> None:
        """Every count on a block is the number of leases that cover it; the budget holds."""
        soft: Counter[int] = Counter()
        hard: Counter[int] = Counter()
        for head in self.heads.values():
            for lease in head.leases.values():
                covered = (block.id for block, born in head.chain[: lease.covered] if block.born == born)
                (hard if lease.strength is Strength.HARD else soft).update(covered)
        for strength, held in self._held.items():
            assert held.keys() == {owner for owner, head in self.heads.items() if strength in head.leases}, strength
        holders = Counter(head.tenant for head in self.heads.values() if Strength.HARD in head.leases)
        assert dict(self._holders) == dict(holders), (self._holders, holders)
        for block in self._pool.blocks:
            counted, true = (block.soft, block.hard), (soft[block.id], hard[block.id])
            assert counted == true, f"{block}: {counted} soft and hard leases, in truth {true}"
        assert self._pool.leased <= self.budget, (self._pool.leased, self.budget)
