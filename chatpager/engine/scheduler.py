"""Who computes what in the next step.

There is no prefill phase and no decode phase, only sequences whose ``committed`` chases their length under one token
budget. Order: sequences that need one token, then prompts with little left (the short lane: warm turns), then long
prompts in chunks; while both lanes have somebody, each has its share of the prefill budget. Requests wait in the order
of priority, then of what is left to compute less a credit that grows with age, so warm turns go first and cold ones are
overtaken for a bounded time only; and looked at are those that come first where tenants take turns.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter

from chatpager.engine.block import BlockState
from chatpager.engine.claims import Claims
from chatpager.engine.lanes import Lanes
from chatpager.engine.match import Match
from chatpager.engine.pace import Pace
from chatpager.engine.plan import Limits, Plan, Row, SchedulerStats
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.quarantine import Quarantine
from chatpager.engine.rounds import Rounds
from chatpager.engine.sequence import Sequence, SequenceStatus

OWNED = BlockState.OWNED


class Scheduler:
    def __init__(self, cache: PrefixCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.block_size = cache.block_size
        self.waiting: list[Sequence] = []
        """By priority, then by rounds of tenants, then age."""
        self.running: list[Sequence] = []
        """In the order of admission."""
        self.stats = SchedulerStats()
        self._promised: list[Sequence] = []
        """Running sequences that were preempted too often to be preempted again."""
        self._copied: list[int] = []
        """Blocks held because a row of this step copies them."""
        self.quarantine = Quarantine(cache)
        self._claims = Claims()
        self._rounds = Rounds()
        self._pace = Pace(limits.step_seconds, limits.max_num_batched_tokens)

    @property
    def occupied(self) -> int:
        """Sequences that run, with the siblings that will once their prompt is computed."""
        return sum(1 + len(seq.forks) for seq in self.running)

    # -- the life of a sequence ---------------------------------------------------------------------------------------

    def add(self, seq: Sequence) -> None:
        seq.status = SequenceStatus.WAITING
        place = bisect_left(self.waiting, seq.priority, key=lambda other: other.priority)
        first = self.waiting[place] if place < len(self.waiting) else None
        earliest = first.round if first is not None and first.priority == seq.priority else None
        number = self._rounds.joined(seq.hasher.tenant, earliest, seq.weight)
        seq.round = number if seq.round is None else seq.round  # one that was preempted has its place again
        insort(self.waiting, seq, key=_turn)

    def commit(self, row: Row) -> None:
        """The step that computed ``row`` is done: its blocks may now be found, its siblings start from its prompt."""
        seq = row.seq
        seq.committed += row.count
        if seq.committed > seq.reached:
            seq.reached = seq.committed
        if seq.committed // self.block_size > seq.published:
            self.cache.publish(seq)
        if seq.claims:
            self._claims.drop(seq, seq.committed // self.block_size)
        if len(row.samples) > 1:
            for twin in seq.forks:
                self._share_table(seq, twin)
            seq.forks = []

    def finish(self, seq: Sequence) -> None:
        """Take a sequence out, whatever state it is in; its blocks go back, the named ones stay findable."""
        if seq.status is SequenceStatus.RUNNING:
            self.running.remove(seq)
            self._vacate(seq)
        elif seq.status is SequenceStatus.WAITING:
            self._stop_waiting(seq)
        seq.status = SequenceStatus.FINISHED

    def take_back_copies(self, plan: Plan) -> None:
        """The step was interrupted, and nobody knows what it copied: its sequences have their shared blocks again."""
        for row in plan.rows:
            if row.copy:
                shared, own = row.copy
                table = row.seq.block_table
                table[table.index(own)] = shared
                self._copied.remove(shared)  # the step's hold is the table's again
                self.cache.let_go(self.cache.pool.blocks[own])

    def settle(self) -> None:
        """The step is over, well or not: what only it needed is let go."""
        while self._copied:
            self.cache.let_go(self.cache.pool.blocks[self._copied.pop()])

    def _stop_waiting(self, seq: Sequence) -> None:
        """A sibling that waits for its request's prompt is not in the queue."""
        place = bisect_left(self.waiting, _turn(seq), key=_turn)
        if place < len(self.waiting) and self.waiting[place] is seq:
            del self.waiting[place]
            self._rounds.left(seq.hasher.tenant)

    def _share_table(self, seq: Sequence, twin: Sequence) -> None:
        for block_id in seq.block_table:
            self.cache.pool.share(self.cache.pool.blocks[block_id])
        twin.block_table = list(seq.block_table)
        twin.committed, twin.published, twin.written = seq.committed, seq.published, seq.written
        twin.hashes = list(seq.hashes)
        twin.first_admitted, twin.is_long, twin.round = True, seq.is_long, seq.round
        twin.cached_tokens, twin.reached = seq.cached_tokens, seq.reached
        twin.restored_tokens = Counter(seq.restored_tokens)
        twin.status = SequenceStatus.RUNNING
        self.running.append(twin)

    def _vacate(self, seq: Sequence) -> None:
        self._claims.drop(seq, seq.claims.stop)
        if not self.quarantine.take(seq):
            self.cache.free(seq.block_table)
        seq.committed = seq.published = seq.written = 0
        if seq in self._promised:
            self._promised.remove(seq)

    # -- one step -----------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Fill one step. Only blocks are taken here; ``commit`` records what was computed, ``settle`` ends it. Where it
        is interrupted, nothing is to be copied."""
        plan = Plan()
        try:
            self._fill(plan)
        except BaseException:
            self.take_back_copies(plan)
            raise
        return plan

    def took(self, plan: Plan, seconds: float) -> None:
        """What ``plan`` took to compute, for the size of those to come."""
        self._pace.took(plan.decodes, plan.prompt_tokens, seconds, full=plan.cut)

    def _fill(self, plan: Plan) -> None:
        self.cache.begin_step()
        budget = self.limits.max_num_batched_tokens
        decodes = [s for s in self.running if len(s.token_ids) - s.committed == 1]
        running = SequenceStatus.RUNNING
        for seq in sorted(decodes, key=attrgetter("priority")):
            if budget and seq.status is running:
                budget -= self._grow(plan, seq, 1)
        plan.decodes = bool(plan.rows)
        budget = min(budget, self._pace.room(plan.decodes))
        candidates = self._candidates()
        lanes = self._lanes(budget, candidates)
        prefills = sorted(
            (s for s in self.running if len(s.token_ids) - s.committed > 1),
            key=lambda s: (lanes.is_long(s.remaining), s.priority),
        )
        for seq in prefills:
            count = lanes.chunk(seq.remaining)
            if count and seq.status is SequenceStatus.RUNNING:
                lanes.take(seq.remaining, self._grow(plan, seq, count))
        self._admit(plan, lanes, candidates)
        plan.prompt_tokens, plan.cut = budget - lanes.left, lanes.cut

    def _lanes(self, budget: int, candidates: list[_Candidate]) -> Lanes:
        """Where steps are small, hardly anything is short; so the shortest prompt always is, beside a longer one."""
        running = [left for s in self.running if (left := len(s.token_ids) - s.committed) > 1]
        shortest = min([*running, *(c.uncached for c in candidates)], default=0)
        threshold = min(
            self.limits.long_prefill_threshold,
            self.limits.max_num_batched_tokens // 2,
            max(self._pace.room(decoding=True) // 2, shortest),
        )
        lanes = Lanes(budget, threshold=threshold, share=self.limits.long_prefill_share)
        lanes.divide(
            long_runs=any(map(lanes.is_long, running)),
            short_comes=not all(map(lanes.is_long, [*running, *(c.uncached for c in candidates)])),
        )
        return lanes

    def _grow(self, plan: Plan, seq: Sequence, count: int) -> int:
        """Add a row for ``count`` more tokens of a running sequence, preempting others for its blocks if need be.
        Returns the tokens planned: ``count``, or 0 when the sequence itself had to give way."""
        table = seq.block_table
        if count == 1 and seq.committed < len(table) * self.block_size and not seq.forks:
            block = self.cache.pool.blocks[table[seq.committed // self.block_size]]
            if block.ref == 1 and block.state is OWNED:  # most steps of most sequences need nothing
                plan.rows.append(Row(seq, 1, [seq] if seq.committed + 1 == len(seq.token_ids) else []))
                return 1
        need, shared = self._blocks_needed(seq, count)
        while need and need > self._allocatable(seq):
            victim = self._victim(seq)
            if victim is seq and self.cache.leases.revoke(need - self._allocatable(seq)):
                continue
            self._preempt(plan, victim)
            if victim is seq:
                return 0
            need, shared = self._blocks_needed(seq, count)
        fresh = self.cache.allocate(need, by=seq.owner) if need else []
        copy = None
        if shared is not None:
            old = seq.block_table[shared]
            copy = (old, fresh.pop())
            seq.block_table[shared] = copy[1]
            self._copied.append(old)  # the table's hold becomes the step's
        if fresh:
            seq.block_table.extend(fresh)
        done = seq.committed + count == len(seq)
        plan.rows.append(Row(seq, count, [seq, *seq.forks] if done else [], copy))
        return count

    def _blocks_needed(self, seq: Sequence, count: int) -> tuple[int, int | None]:
        """(blocks to allocate for ``count`` more tokens, place of a shared block that is written and so copied)."""
        table, place = seq.block_table, seq.committed // self.block_size
        table_need = -(-(seq.committed + count) // self.block_size) - len(table)
        shared = place < len(table) and self.is_shared(table[place])
        return table_need + shared, place if shared else None

    def is_shared(self, block_id: int) -> bool:
        """Whether another table has the block too, or the cache. A step's hold does not count: it copies before
        anything is written, and what it copies ends before the place where the last holder writes."""
        block = self.cache.pool.blocks[block_id]
        return block.state is BlockState.CACHED or (block.ref > 1 and block.ref - self._copied.count(block_id) > 1)

    # -- room for all -------------------------------------------------------------------------------------------------

    @property
    def unpromised(self) -> int:
        """Blocks that anybody may take."""
        return self.cache.pool.available - sum(map(self._promise, self._promised))

    def _allocatable(self, seq: Sequence) -> int:
        """Blocks that ``seq`` may take: those available, less what is promised to others."""
        return self.cache.pool.available - sum(self._promise(s) for s in self._promised if s is not seq)

    def _immune(self, seq: Sequence) -> bool:
        return seq.preemptions >= self.limits.max_preemptions

    def _promise(self, seq: Sequence) -> int:
        """Blocks kept free for a sequence that is not preempted again: all it can ever need."""
        return max(0, _blocks(seq.max_length, self.block_size) + 1 - len(seq.block_table))

    def _victim(self, needy: Sequence) -> Sequence:
        """Lowest priority, then what nobody reads, then latest admitted; never one that was preempted too often
        already."""
        choice = ((s.priority, s.unread, i) for i, s in enumerate(self.running) if s is needy or not self._immune(s))
        return self.running[max(choice)[2]]

    def _preempt(self, plan: Plan, seq: Sequence) -> None:
        """Back to waiting; its full blocks stay findable, or are swapped to host memory, so that resuming computes
        little."""
        for row in [row for row in plan.rows if row.seq is seq]:
            plan.rows.remove(row)
            if row.copy:
                self._copied.remove(row.copy[0])
                self.cache.let_go(self.cache.pool.blocks[row.copy[0]])
        self.stats.preemptions += 1
        self.running.remove(seq)
        self.stats.swaps += self.cache.expect(seq)
        self._vacate(seq)
        seq.reading = None
        seq.preemptions += 1
        self.add(seq)

    # -- admission ----------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[_Candidate]:
        """The oldest waiting requests in the order in which they should be admitted."""
        if not self.waiting or self.occupied >= self.limits.max_num_seqs:
            return []
        oldest = self.waiting[: self.limits.window]
        credit = self.limits.age_credit
        found = [_Candidate(s, len(s) - self.cache.below.reach(s) * self.block_size) for s in oldest]
        return sorted(found, key=lambda c: (c.seq.priority, max(0, c.uncached - credit * c.seq.age), _turn(c.seq)))

    def _admit(self, plan: Plan, lanes: Lanes, candidates: list[_Candidate]) -> None:
        for candidate in candidates:
            seq = candidate.seq
            if self.occupied + 1 + len(seq.forks) > self.limits.max_num_seqs or not lanes.left:
                lanes.cut = lanes.cut or not lanes.left
                break
            if self._is_deferred(seq):
                self.stats.deferred += 1
                continue
            if not self._admit_one(plan, lanes, seq):
                plan.full = True
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

    def _admit_one(self, plan: Plan, lanes: Lanes, seq: Sequence) -> bool:
        """Match, check that the whole prompt fits (not only its first chunk), and start. False: no room now."""
        match = self.cache.match(seq)
        if not lanes.chunk(len(seq) - self.cache.below.reach(seq) * self.block_size):
            match.rollback()
            return True
        need = _blocks(len(seq), self.block_size)
        if self._immune(seq):
            need = _blocks(seq.max_length, self.block_size) + 1
        watermark = int(self.limits.watermark * self.cache.pool.usable) if self.running else 0
        others = watermark + self._unfinished_prefills()
        if not self._has_room(seq, need - len(match.blocks) + others):
            match.rollback()
            return False
        try:
            whole = self.cache.below.restore(seq, match, at_once=not plan.rows)
        except BaseException:
            match.rollback()
            raise
        if not whole:
            match.rollback()  # what has come stays in the cache; the rest comes in the next steps
            return True
        room = self._allocatable(seq) - (need - len(match.blocks)) - others
        if room > 0 and not seq.speculative:  # what is copied is held for a step: no draft may cost others that
            self.cache.extend(seq, match)
        if count := lanes.chunk(len(seq) - match.tokens):
            self._start(seq, match, lanes)
            lanes.take(seq.remaining, self._grow(plan, seq, count))
        else:
            match.rollback()  # less was restored than was in reach
        return True

    def _start(self, seq: Sequence, match: Match, lanes: Lanes) -> None:
        self._stop_waiting(seq)
        self._rounds.begun(seq.round or 0)
        self.running.append(seq)
        if self._immune(seq):
            self._promised.append(seq)
        seq.status = SequenceStatus.RUNNING
        seq.block_table = match.commit()
        seq.committed = match.tokens
        seq.is_long = seq.is_long if seq.first_admitted else lanes.is_long(seq.remaining)
        seq.published = seq.written = len(match.blocks)
        self._count_admission(seq, match)
        if self.cache.enabled:
            self._claims.take(seq)

    def _has_room(self, seq: Sequence, need: int) -> bool:
        """Leases give way only where waiting for those that run would not help."""
        missing = need - self._allocatable(seq)
        running = self.cache.pool.counts()["active"] if self.running else 0
        if missing > running:
            self.cache.leases.revoke(missing - running)
            missing = need - self._allocatable(seq)
        return missing <= 0

    def _count_admission(self, seq: Sequence, match: Match) -> None:
        tokens = match.tokens
        if seq.first_admitted:
            self.stats.recomputed_tokens += len(seq) - tokens
            return
        seq.first_admitted = True
        seq.reached = tokens
        seq.cached_tokens = left = min(tokens, seq.num_prompt_tokens)  # an answer may go on here that others began
        seq.restored_tokens = Counter()
        for source, count in match.restored.items():
            seq.restored_tokens[source] = min(left, count * self.block_size)
            left -= seq.restored_tokens[source]
        if not seq.speculative:
            seq.evicted = self.cache.count_admission(seq, match)

    def _unfinished_prefills(self) -> int:
        """Blocks that running prompts still have to take: promised to them before anyone is admitted."""
        return sum(
            max(0, _blocks(len(s), self.block_size) - len(s.block_table))
            for s in self.running
            if s.remaining > 1 and not self._immune(s)
        )


@dataclass(frozen=True)
class _Candidate:
    seq: Sequence
    uncached: int


def _turn(seq: Sequence) -> tuple[int, int, int, int]:
    """A request's place in the queue; no two are equal."""
    return seq.priority, seq.round or 0, seq.arrival, seq.index


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
