"""Who computes what in the next step.

There is no prefill phase and no decode phase, only sequences whose ``committed`` chases their length under one token
budget. Order: sequences that need one token, then prompts with little left (the short lane: warm turns), then long
prompts in chunks that leave half of the prefill budget to the short lane while it is not empty. Requests wait in the
order of priority, then of what is left to compute less a credit that grows with age, so warm turns go first and cold
ones are overtaken for a bounded time only.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from chatpager.engine.block_hash import BlockHash
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.sequence import Sequence, SequenceStatus


@dataclass(frozen=True)
class Limits:
    """Tokens and sequences a step may hold, and the knobs of fairness (kvcache research, section 5.10)."""

    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    long_prefill_threshold: int = 4096
    long_prefill_share: float = 0.5
    age_credit: int = 256
    """Tokens that a waiting request's uncached length seems shorter for every step it has waited."""
    max_preemptions: int = 3
    watermark: float = 0.01
    window: int = 32
    """Waiting requests that are compared in one step."""


@dataclass(eq=False)
class Row:
    """``count`` tokens of one sequence in one step. ``samples`` get a token from its last logits (n > 1: several)."""

    seq: Sequence
    count: int
    samples: list[Sequence] = field(default_factory=list)
    copy: tuple[int, int] | None = None
    """(shared block, own block): copied before the step writes into it."""


@dataclass
class Plan:
    rows: list[Row] = field(default_factory=list)


@dataclass
class SchedulerStats:
    preemptions: int = 0
    recomputed_tokens: int = 0
    deferred: int = 0


class Scheduler:
    def __init__(self, cache: PrefixCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.block_size = cache.block_size
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """In the order of admission."""
        self.stats = SchedulerStats()
        self._promised: list[Sequence] = []
        """Running sequences that were preempted too often to be preempted again."""
        self._claims: dict[BlockHash, Sequence] = {}
        """Prompt blocks that a running sequence is about to compute: others wait for them (one prefill at most)."""

    # -- the life of a sequence ---------------------------------------------------------------------------------------

    def add(self, seq: Sequence) -> None:
        seq.status = SequenceStatus.WAITING
        self.waiting.append(seq)

    def commit(self, row: Row) -> None:
        """The step that computed ``row`` is done: its blocks may now be found, its siblings start from its prompt."""
        seq = row.seq
        seq.committed += row.count
        self.cache.publish(seq)
        self._drop_claims(seq, seq.committed // self.block_size)
        if len(row.samples) > 1:
            for twin in seq.forks:
                self._share_table(seq, twin)
            seq.forks = []

    def finish(self, seq: Sequence) -> None:
        """Take a sequence out, whatever state it is in; its blocks go back, the named ones stay findable."""
        if seq.status is SequenceStatus.RUNNING:
            self.running.remove(seq)
            self._vacate(seq)
        elif seq.status is SequenceStatus.WAITING and seq in self.waiting:
            self.waiting.remove(seq)
        seq.status = SequenceStatus.FINISHED

    def _share_table(self, seq: Sequence, twin: Sequence) -> None:
        for block_id in seq.block_table:
            self.cache.pool.share(self.cache.pool.blocks[block_id])
        twin.block_table = list(seq.block_table)
        twin.committed, twin.published, twin.written = seq.committed, seq.published, seq.written
        twin.hashes = list(seq.hashes)
        twin.first_admitted = True
        twin.cached_tokens = seq.cached_tokens
        twin.status = SequenceStatus.RUNNING
        self.running.append(twin)

    def _vacate(self, seq: Sequence) -> None:
        self._drop_claims(seq, seq.claims.stop)
        self.cache.free(seq.block_table)
        seq.committed = seq.published = seq.written = 0
        if seq in self._promised:
            self._promised.remove(seq)

    def _drop_claims(self, seq: Sequence, upto: int) -> None:
        """Blocks before ``upto`` are computed now, or never will be by this sequence."""
        done = range(seq.claims.start, min(seq.claims.stop, upto))
        for i in done:
            if self._claims.get(seq.hashes[i]) is seq:
                del self._claims[seq.hashes[i]]
        if done:
            seq.claims = range(done.stop, seq.claims.stop)

    # -- one step -----------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Fill one step. Only blocks are taken here; ``commit`` records what was computed."""
        plan = Plan()
        budget = self.limits.max_num_batched_tokens
        for seq in sorted((s for s in self.running if s.remaining == 1), key=lambda s: s.priority):
            if budget and seq.status is SequenceStatus.RUNNING:
                budget -= self._grow(plan, seq, 1)
        lanes = _Lanes(budget, self.limits)
        prefills = sorted(
            (s for s in self.running if s.remaining > 1), key=lambda s: (lanes.is_long(s.remaining), s.priority)
        )
        candidates = self._candidates()
        if any(not lanes.is_long(c.uncached) for c in candidates) or any(
            not lanes.is_long(s.remaining) for s in prefills
        ):
            lanes.share_with_short()
        for seq in prefills:
            count = lanes.chunk(seq.remaining)
            if count and seq.status is SequenceStatus.RUNNING:
                lanes.take(seq.remaining, self._grow(plan, seq, count))
        self._admit(plan, lanes, candidates)
        return plan

    def _grow(self, plan: Plan, seq: Sequence, count: int) -> int:
        """Add a row for ``count`` more tokens of a running sequence, preempting others for its blocks if need be.
        Returns the tokens planned: ``count``, or 0 when the sequence itself had to give way."""
        need, shared = self._blocks_needed(seq, count)
        while need > self._allocatable(seq):
            victim = self._victim(seq)
            self._preempt(plan, victim)
            if victim is seq:
                return 0
            need, shared = self._blocks_needed(seq, count)
        fresh = self.cache.allocate(need)
        copy = None
        if shared is not None:
            old = seq.block_table[shared]
            copy = (old, fresh.pop())
            seq.block_table[shared] = copy[1]
            self.cache.let_go(self.cache.pool.blocks[old])
        seq.block_table.extend(fresh)
        done = seq.committed + count == len(seq)
        plan.rows.append(Row(seq, count, [seq, *seq.forks] if done else [], copy))
        return count

    def _blocks_needed(self, seq: Sequence, count: int) -> tuple[int, int | None]:
        """(blocks to allocate for ``count`` more tokens, place of a shared block that is written and so copied)."""
        table_need = _blocks(seq.committed + count, self.block_size) - len(seq.block_table)
        place = seq.committed // self.block_size
        shared = place < len(seq.block_table) and self.cache.pool.blocks[seq.block_table[place]].ref > 1
        return table_need + shared, place if shared else None

    # -- room for all -------------------------------------------------------------------------------------------------

    def _allocatable(self, seq: Sequence) -> int:
        """Blocks that ``seq`` may take: those available, less what is promised to others."""
        return self.cache.pool.available - sum(self._promise(s) for s in self._promised if s is not seq)

    def _immune(self, seq: Sequence) -> bool:
        return seq.preemptions >= self.limits.max_preemptions

    def _promise(self, seq: Sequence) -> int:
        """Blocks kept free for a sequence that is not preempted again: all it can ever need."""
        return max(0, _blocks(seq.max_length, self.block_size) + 1 - len(seq.block_table))

    def _victim(self, needy: Sequence) -> Sequence:
        """Lowest priority, then latest admitted; never one that was preempted too often already."""
        choice = ((s.priority, i) for i, s in enumerate(self.running) if s is needy or not self._immune(s))
        return self.running[max(choice)[1]]

    def _preempt(self, plan: Plan, seq: Sequence) -> None:
        """Back to waiting; its full blocks stay findable, so that resuming computes little unless they are evicted."""
        plan.rows = [row for row in plan.rows if row.seq is not seq]
        self.stats.preemptions += 1
        self.running.remove(seq)
        self._vacate(seq)
        seq.preemptions += 1
        self.add(seq)

    # -- admission ----------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[_Candidate]:
        """The oldest waiting requests in the order in which they should be admitted."""
        if not self.waiting or len(self.running) >= self.limits.max_num_seqs:
            return []
        oldest = heapq.nsmallest(self.limits.window, self.waiting, key=lambda s: (s.priority, s.arrival, s.index))
        credit = self.limits.age_credit
        found = [_Candidate(s, len(s) - self.cache.peek(s) * self.block_size) for s in oldest]
        return sorted(
            found, key=lambda c: (c.seq.priority, max(0, c.uncached - credit * c.seq.age), c.seq.arrival, c.seq.index)
        )

    def _admit(self, plan: Plan, lanes: _Lanes, candidates: list[_Candidate]) -> None:
        for candidate in candidates:
            seq = candidate.seq
            if len(self.running) + 1 + len(seq.forks) > self.limits.max_num_seqs or not lanes.left:
                break
            if not lanes.chunk(candidate.uncached):
                continue
            if self._is_deferred(seq):
                self.stats.deferred += 1
                continue
            if not self._admit_one(plan, lanes, seq):
                break
        for candidate in candidates:
            if candidate.seq.status is SequenceStatus.WAITING:
                candidate.seq.age += 1

    def _is_deferred(self, seq: Sequence) -> bool:
        """Somebody is computing the very block this request would have to compute first."""
        if not self.cache.enabled:
            return False
        first = self.cache.peek(seq)
        if first >= self.cache.matchable_blocks(seq):
            return False
        return seq.hashes[first] in self._claims

    def _admit_one(self, plan: Plan, lanes: _Lanes, seq: Sequence) -> bool:
        """Match, check that the whole prompt fits (not only its first chunk), and start. False: no room now."""
        match = self.cache.match(seq)
        tokens = len(match.blocks) * self.block_size
        need = _blocks(len(seq), self.block_size) - len(match.blocks)
        if self._immune(seq):
            need = _blocks(seq.max_length, self.block_size) + 1 - len(match.blocks)
        watermark = int(self.limits.watermark * self.cache.pool.usable) if self.running else 0
        if need + watermark + self._unfinished_prefills() > self._allocatable(seq):
            match.rollback()
            return False
        self.waiting.remove(seq)
        self.running.append(seq)
        if self._immune(seq):
            self._promised.append(seq)
        seq.status = SequenceStatus.RUNNING
        seq.block_table = match.commit()
        seq.committed = tokens
        seq.published = seq.written = len(match.blocks)
        self._count_admission(seq, tokens)
        self._claim(seq)
        count = lanes.chunk(seq.remaining)
        lanes.take(seq.remaining, self._grow(plan, seq, count))
        return True

    def _count_admission(self, seq: Sequence, tokens: int) -> None:
        if seq.first_admitted:
            self.stats.recomputed_tokens += len(seq) - tokens
            return
        seq.first_admitted = True
        seq.cached_tokens = tokens
        self.cache.stats.queried_tokens += seq.num_prompt_tokens
        self.cache.stats.hit_tokens += tokens

    def _unfinished_prefills(self) -> int:
        """Blocks that running prompts still have to take: promised to them before anyone is admitted."""
        return sum(
            max(0, _blocks(len(s), self.block_size) - len(s.block_table))
            for s in self.running
            if s.remaining > 1 and not self._immune(s)
        )

    def _claim(self, seq: Sequence) -> None:
        if not self.cache.enabled:
            return
        seq.claims = range(seq.written, len(seq) // self.block_size)
        for name in seq.full_hashes(seq.claims.stop)[seq.claims.start :]:
            self._claims.setdefault(name, seq)


@dataclass(frozen=True)
class _Candidate:
    seq: Sequence
    uncached: int


class _Lanes:
    """The prefill budget of one step, split between prompts with little left and long ones."""

    def __init__(self, budget: int, limits: Limits) -> None:
        self.left = budget
        self._long_left = budget
        self._limits = limits

    def is_long(self, remaining: int) -> bool:
        return remaining > self._limits.long_prefill_threshold

    def share_with_short(self) -> None:
        self._long_left = max(1, int(self.left * self._limits.long_prefill_share)) if self.left else 0

    def chunk(self, remaining: int) -> int:
        """Tokens that a prompt with ``remaining`` tokens to go may compute now."""
        return min(remaining, self.left, self._long_left if self.is_long(remaining) else self.left)

    def take(self, remaining: int, count: int) -> None:
        self.left -= count
        if self.is_long(remaining):
            self._long_left -= count


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
