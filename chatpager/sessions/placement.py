"""Which replica of the engine a session belongs to: a pure function of what every front end reads in the same rows.

Nothing is drawn, remembered or asked here, so front ends that read the same replicas agree without talking. Where they
read different loads they may not: then the session's row decides, which each writes only where ``owner_epoch`` is still
the one it read.

- Highest random weight: every replica has a number of its own for every key, and the key goes where it is best; who
  joins or leaves moves only the keys that it gets or had (Thaler and Ravishankar, "Using name-based mappings to
  increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). Weights are those of the logarithmic method
  (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005).
- Bounded loads: who has more than 1.25 of its share hands on to the next in the key's own order (Mirrokni, Thorup and
  Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018).
- Numbers: XXH3 of names, one per replica and key, mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
  splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from math import inf

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from chatpager.errors import ConfigError, Overloaded

Loads = npt.NDArray[np.float64]
"""Queued work of each candidate, in any unit: tokens, seconds. Shape (candidates,)."""

Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]

ORDERS_KEPT = 4096
"""Orders of keys that are asked for again and again: those of prefix groups."""


class Replica(msgspec.Struct, frozen=True):
    """One row of those that every front end reads. Times are in seconds of the database's clock."""

    id: str
    epoch: int = 0
    """Of the process: another one after each restart."""
    capacity: float = 1.0
    """Its share of the sessions against the others' shares."""
    lease_until: float = inf
    """It is dead from then on, unless it has renewed the lease."""
    draining: bool = False


class Owner(msgspec.Struct, frozen=True):
    """What a session's row says of the replica that may write its turns."""

    replica: str
    replica_epoch: int
    owner_epoch: int
    """Grows with every change of the owner: a write under an earlier one is refused."""
    lease_until: float


class Policy(msgspec.Struct, frozen=True):
    """Loads in the unit of the loads that are given, times in seconds."""

    factor: float = 1.25
    """Of its share of all load, what a replica may have before it gets one more session."""
    allowance: float = 0.0
    """What every replica may have, however little the others have."""
    lease: float = 300.0
    """How long a session stays where it was last placed, over the bound or not. 0: each turn is placed anew."""
    hot_after: float = 5.0
    """A prefix group over the bound for so long gets one replica more."""
    idle_after: float = 60.0
    """One of which no session was placed for so long is left with one."""
    most_copies: int = 4

    def __post_init__(self) -> None:
        """Raises ConfigError: a bound that nobody may keep."""
        if not self.factor >= 1:
            raise ConfigError("factor", "must be at least 1: below it all can be over their bound", value=self.factor)


POLICY = Policy()


class Heat(msgspec.Struct, frozen=True):
    """What a prefix group's row says of how many replicas keep its prefix."""

    copies: int = 1
    over_since: float | None = None
    used_at: float = -inf


class Placement(msgspec.Struct, frozen=True):
    at: int
    """The index of the replica among the candidates."""
    owner: Owner
    """To be written into the session's row, only where ``owner_epoch`` there is what it was when the row was read."""
    over: bool
    """Whether every replica that keeps the key's prefix was over its bound."""


class Candidates:
    """The replicas that may be given work at a moment: alive, not draining, in the order of their ids.

    The order in which rows were read makes no difference. Indices mean places in ``ids``.

    Raises:
        ConfigError: two replicas have one id, or a capacity is not a positive number.
    """

    def __init__(self, replicas: Iterable[Replica], now: float) -> None:
        rows = sorted(replicas, key=lambda one: one.id)
        for one, following in pairwise(rows):
            if one.id == following.id:
                raise ConfigError("replica", "each needs an id of its own", value=one.id)
        for one in rows:
            if not 0 < one.capacity < inf:
                raise ConfigError(f"capacity of replica {one.id}", "must be more than 0", value=one.capacity)
        self.replicas = [one for one in rows if not one.draining and now < one.lease_until]
        self.ids = [one.id for one in self.replicas]
        self._at = {id_: i for i, id_ in enumerate(self.ids)}
        self._numbers = np.array([_number("r", id_) for id_ in self.ids], dtype=np.uint64)
        capacities = np.array([one.capacity for one in self.replicas])
        self._capacities = None if len(set(capacities)) < 2 else capacities
        self.shares: Loads = capacities / capacities.sum() if self.ids else capacities
        self.order_of_group = lru_cache(ORDERS_KEPT)(self._order_of_group)

    def __len__(self) -> int:
        return len(self.ids)

    def loads(self, by_id: Mapping[str, float]) -> Loads:
        """Of those that none is known of, 0."""
        return np.array([by_id.get(id_, 0.0) for id_ in self.ids])

    def order(self, key: int) -> Places:
        """Every candidate, the best for this key first. Shape (candidates,)."""
        return np.argsort(self._ranks(key, self._numbers, self._capacities), kind="stable")

    def first(self, key: int) -> int:
        """``order(key)[0]``, without sorting."""
        return int(self._ranks(key, self._numbers, self._capacities).argmin())

    def holds(self, owner: Owner) -> int | None:
        """The index of this very process, where it is a candidate."""
        at = self._at.get(owner.replica)
        return at if at is not None and self.replicas[at].epoch == owner.replica_epoch else None

    def among(self, key: int, places: Places) -> Places:
        """These places, the best for this key first."""
        capacities = None if self._capacities is None else self._capacities[places]
        return places[np.argsort(self._ranks(key, self._numbers[places], capacities), kind="stable")]

    def _order_of_group(self, group: str) -> Places:
        return self.order(group_key(group))

    @staticmethod
    def _ranks(key: int, numbers: Numbers, capacities: Loads | None) -> Numbers | Loads:
        """Lower is better. Unequal capacities turn a rank into the time of the first of ``capacity`` arrivals a second:
        whose comes first is drawn by capacity. Floating point may make front ends of different processors part there
        on two times that are equal to fifteen digits; equal capacities are compared as whole numbers."""
        mixed = _mixed(numbers ^ np.uint64(key))
        if capacities is None:
            return mixed
        times: Loads = -np.log1p(-((mixed >> np.uint64(11)) * 2.0**-53)) / capacities
        return times


def session_key(session: str) -> int:
    return _number("s", session)


def group_key(group: str) -> int:
    """``group`` names the tenant too, where two tenants may name theirs alike."""
    return _number("g", group)


def place(
    candidates: Candidates,
    session: str,
    *,
    loads: Loads,
    now: float,
    group: str | None = None,
    copies: int = 1,
    owner: Owner | None = None,
    policy: Policy = POLICY,
) -> Placement:
    """Where the session's next turn goes: to its owner while that lease lives, or to the first within its bound.

    The order is the one of the session's prefix group, so that sessions meet where their prefix is; the first
    ``copies`` of it keep the prefix, and each session has an order of its own among them. A session without a group has
    its own order of all. A replica is within its bound if it has at most ``policy.factor`` of its share of all
    ``loads`` before this turn comes; the one with the least load for its capacity always is.

    Raises:
        Overloaded: there is no candidate.
    """
    if not candidates.ids:
        raise Overloaded("no replica of the engine takes work: all are draining or away; try again later")
    if owner is not None and now < owner.lease_until and (at := candidates.holds(owner)) is not None:
        kept = Owner(owner.replica, owner.replica_epoch, owner.owner_epoch, now + policy.lease)
        return Placement(at, kept, False)
    allowed = policy.factor * float(loads.sum())
    key, over = session_key(session), False
    if group is None:
        at = candidates.first(key)
        if not _within(loads[at], allowed * candidates.shares[at], policy):
            over = True
            at = _first_within(candidates, candidates.order(key), loads, allowed, policy)
    else:
        order = candidates.order_of_group(group)
        keeping = candidates.among(key, order[:copies]) if copies > 1 else order[:1]
        at = int(keeping[0])
        if not _within(loads[at], allowed * candidates.shares[at], policy):
            at = _first_within(candidates, np.concatenate((keeping, order[len(keeping) :])), loads, allowed, policy)
            over = at not in keeping
    chosen, epoch = candidates.replicas[at], owner.owner_epoch + 1 if owner is not None else 1
    return Placement(at, Owner(chosen.id, chosen.epoch, epoch, now + policy.lease), over)


def heated(heat: Heat, placement: Placement, now: float, policy: Policy = POLICY) -> Heat:
    """A prefix group's row after one of its sessions was placed."""
    copies = heat.copies if now - heat.used_at < policy.idle_after else 1
    if not placement.over:
        return Heat(copies, None, now)
    since = now if heat.over_since is None else heat.over_since
    if now - since < policy.hot_after:
        return Heat(copies, since, now)
    return Heat(min(copies + 1, policy.most_copies), now, now)


def _within(load: float, bound: float, policy: Policy) -> bool:
    return bool(load <= max(bound, policy.allowance))


def _first_within(candidates: Candidates, order: Places, loads: Loads, allowed: float, policy: Policy) -> int:
    within = loads[order] <= np.maximum(allowed * candidates.shares[order], policy.allowance)
    if not within.any():  # rounding, where factor is 1
        return int(order[(loads[order] / candidates.shares[order]).argmin()])
    return int(order[within.argmax()])


def _number(kind: str, name: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{kind}\0{name}".encode())


def _mixed(numbers: Numbers) -> Numbers:
    """SplitMix64's finaliser: a permutation of 64-bit numbers in which every bit depends on every bit."""
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
