"""What turns found in the cache, kept for the admin page: sums over time, by conversation, tenant and published prefix.

It is told of every end that the metrics are told of, so its sums are theirs. All of it is bounded, and nothing of it
says what was said.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from chatpager.sessions.heads import owner_of
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

FINE_SECONDS = 900
"""For so long sums are kept by the second."""
MINUTES = 24 * 60
"""For so many they are kept by the minute."""
ROWS = 4096
"""Conversations, tenants and prefixes that are told apart, each; those that were used last."""
SAMPLES = 4096
FAULTS = 100
PUSHES = 200
LAGS = 240

K = TypeVar("K")
V = TypeVar("V")


class Sums(msgspec.Struct):
    """Of turns that ended. ``attainable_tokens`` are what the cache could have given had nothing been evicted, as
    receipts say; ``prefill_seconds`` were spent on ``computed_tokens``."""

    turns: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0
    computed_tokens: int = 0
    attainable_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0

    @property
    def hit_tokens(self) -> int:
        return self.device_tokens + self.host_tokens + self.disk_tokens

    def add(self, other: Sums) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Reuse(msgspec.Struct):
    """What the turns of one conversation, tenant or prefix found; ``last_at`` in milliseconds."""

    turns: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    attainable_tokens: int = 0
    last_at: int = 0

    def add(self, sums: Sums, at: int) -> None:
        self.turns += 1
        self.prompt_tokens += sums.prompt_tokens
        self.hit_tokens += sums.hit_tokens
        self.attainable_tokens += sums.attainable_tokens
        self.last_at = at


class FirstToken(NamedTuple):
    """``at``: the turn's end, in milliseconds."""

    at: int
    warm: bool
    seconds: float


class Fault(NamedTuple):
    """A turn that failed. Its message is in the log: it may quote what was asked."""

    at: int
    response_id: str
    tenant: str
    code: str


class Push(NamedTuple):
    """``by`` is who needed the memory that the first block ``victim`` missed had stood in; both are the engine's names
    of owners, and ``by`` is empty where nobody is known."""

    at: int
    victim: str
    by: str
    eviction_class: str
    seconds_ago: float
    lease_revoked: bool


class Ledger:
    def __init__(self) -> None:
        self.total = Sums()
        self.sessions: OrderedDict[str, Reuse] = OrderedDict()
        """By the engine's names of owners; the one whose turn ended last is the last."""
        self.tenants: OrderedDict[str, Reuse] = OrderedDict()
        self.prefixes: OrderedDict[str, Reuse] = OrderedDict()
        """By label; their tokens are those of the prefix alone."""
        self.first_tokens: deque[FirstToken] = deque(maxlen=SAMPLES)
        self.faults: deque[Fault] = deque(maxlen=FAULTS)
        self.pushes: deque[Push] = deque(maxlen=PUSHES)
        self.misses: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.resumed: Counter[bool] = Counter()
        """Readers that came back, by whether what they missed was still there."""
        self.lags: deque[float] = deque(maxlen=LAGS)
        """Of the event loop, in seconds; four a second."""
        self._seconds: deque[tuple[int, Sums]] = deque()
        self._minutes: deque[tuple[int, Sums]] = deque()

    def turn_ended(self, turn: LiveTurn, ended: Ended, *, warm: bool | None) -> None:
        """``warm`` as the metrics count it; None where they do not."""
        sums = _sums(turn, ended)
        self.total.add(sums)
        for buckets, seconds, kept in ((self._seconds, 1, FINE_SECONDS), (self._minutes, 60, MINUTES * 60)):
            _bucket(buckets, ended.at // 1000 // seconds * seconds, kept).add(sums)
        if ended.receipt is not None and turn.index == 0:
            self._by_owner(turn, ended, sums)
        if warm is not None and ended.timings.ttft_ms is not None:
            self.first_tokens.append(FirstToken(ended.at, warm, ended.timings.ttft_ms / 1000))
        if ended.error_code is not None:
            self.faults.append(Fault(ended.at, turn.id, turn.request.tenant, ended.error_code))

    def _by_owner(self, turn: LiveTurn, ended: Ended, sums: Sums) -> None:
        receipt, tenant = ended.receipt, turn.request.tenant
        assert receipt is not None
        owner = turn.owner or owner_of(tenant, turn.id)
        if receipt.miss_reason:
            self.misses[receipt.miss_reason] += 1
        if turn.owner:
            latest(self.sessions, turn.owner, Reuse()).add(sums, ended.at)
        latest(self.tenants, tenant, Reuse()).add(sums, ended.at)
        if receipt.published is not None:
            found = min(receipt.published_tokens, receipt.cached_tokens)
            shared = Sums(prompt_tokens=receipt.published_tokens, device_tokens=found)
            shared.attainable_tokens = receipt.published_tokens
            latest(self.prefixes, receipt.published, Reuse()).add(shared, ended.at)
        lost = turn.usage.lost if turn.usage is not None else None
        if lost is not None:
            pushed = Push(ended.at, owner, lost.by, lost.eviction_class, lost.seconds_ago, lost.lease_revoked)
            self.pushes.append(pushed)

    def window(self, now: int, minutes: int) -> Sums:
        """The sums of so many whole minutes up to ``now``, in milliseconds, that of now included; of one, those of the
        last sixty seconds."""
        since, buckets = now // 60_000 * 60 - 60 * (minutes - 1), self._minutes
        if minutes == 1:
            since, buckets = now // 1000 - 59, self._seconds
        found = Sums()
        for at, sums in reversed(buckets):
            if at < since:
                break
            found.add(sums)
        return found

    def points(self, now: int, seconds: int, step: int) -> list[tuple[int, Sums]]:
        """The sums of the last ``seconds`` by ``step`` of them, oldest first, without those of which there are none.
        What is older than anything that is kept by the second is told by the minute."""
        since = now // 1000 // step * step - seconds + step
        fine = list(self._seconds) if step < 60 else []
        begins = fine[0][0] if fine else now // 1000 + 1
        coarse = [(at, sums) for at, sums in self._minutes if not fine or at + 60 <= begins]
        found: dict[int, Sums] = {}
        for at, sums in (*coarse, *fine):
            if at >= since:
                found.setdefault(at // step * step, Sums()).add(sums)
        return sorted(found.items())

    def minutes(self, since: int) -> list[tuple[int, Sums]]:
        """Those that began at or after ``since``, in seconds, for the database."""
        return [(at, sums) for at, sums in self._minutes if at >= since]

    def load(self, rows: Mapping[int, Sums]) -> None:
        """What an earlier process kept of its minutes."""
        mine = self._minutes
        self._minutes = deque()
        for at, sums in sorted([*rows.items(), *mine], key=lambda row: row[0]):
            _bucket(self._minutes, at, MINUTES * 60).add(sums)


def _sums(turn: LiveTurn, ended: Ended) -> Sums:
    sums = Sums(turns=1, failed=ended.status == "failed", generated_tokens=ended.output_tokens)
    receipt = ended.receipt
    if receipt is None or turn.index:  # the first of several answers computed the prompt for all
        return sums
    sums.prompt_tokens, sums.attainable_tokens = receipt.prompt_tokens, receipt.attainable_tokens
    sums.device_tokens, sums.host_tokens, sums.disk_tokens = (
        receipt.device_tokens,
        receipt.host_tokens,
        receipt.disk_tokens,
    )
    sums.computed_tokens = receipt.computed_tokens
    sums.prefill_seconds = ended.timings.prefill_ms / 1000
    return sums


def _bucket(buckets: deque[tuple[int, Sums]], at: int, kept: int) -> Sums:
    """That of ``at``; or the last one, where the clock went back."""
    if not buckets or buckets[-1][0] < at:
        buckets.append((at, Sums()))
        while buckets[0][0] <= at - kept:
            buckets.popleft()
    return buckets[-1][1]


def latest(rows: OrderedDict[K, V], key: K, new: V) -> V:
    """The row of ``key``, now the last one; the first goes where there are too many."""
    row = rows.setdefault(key, new)
    rows.move_to_end(key)
    if len(rows) > ROWS:
        rows.popitem(last=False)
    return row
