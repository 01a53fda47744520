"""Who computes what in the next step.

There is no prefill phase and no decode phase, only sequences whose ``committed`` chases their length under one token
budget. Order: sequences that need one token, then prompts with little left (the short lane: warm turns), then long
prompts in chunks; while both lanes have somebody, each has its share of the prefill budget. Requests wait in the order
of priority, then of what is left to compute less a credit that grows with age, so warm turns go first and cold ones are
overtaken for a bounded time only; and looked at are those that come first where tenants take turns.
"""

from __future__ import annotations

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
from chatpager.engine.promises import Promises
from chatpager.engine.quarantine import Quarantine
from chatpager.engine.sequence import Sequence, SequenceStatus
from chatpager.engine.step_copies import StepCopies
from chatpager.engine.waiting_line import WaitingLine, turn

OWNED = BlockState.OWNED


class Scheduler:
    def __init__(self, cache: PrefixCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.block_size = cache.block_size
        self.waiting = WaitingLine()
        self.running: list[Sequence] = []
        """In the order of admission."""
        self.stats = SchedulerStats()
        self.quarantine = Quarantine(cache)
        self.copies = StepCopies(cache)
        self.promises = Promises(cache.pool, cache.block_size, limits.max_preemptions)
        self._claims = Claims()
        self._pace = Pace(limits.step_seconds, limits.max_num_batched_tokens)

    @property
    def occupied(self) -> int:
        """Sequences that run, with the siblings that will once their prompt is computed."""
        return sum(1 + len(seq.forks) for seq in self.running)

    # -- the life of a sequence ---------------------------------------------------------------------------------------

    def add(self, seq: Sequence) -> None:
        seq.status = SequenceStatus.WAITING
        self.waiting.join(seq)

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
            self.waiting.leave(seq)
        seq.status = SequenceStatus.FINISHED

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
        self.promises.end(seq)

    # -- one step -----------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Fill one step. Only blocks are taken here; ``commit`` records what was computed, ``copies.settle`` ends it.
        Where it is interrupted, nothing is to be copied."""
        plan = Plan()
        try:
            self._fill(plan)
        except BaseException:
            self.copies.take_back(plan)
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
        while need and need > self.promises.allocatable(seq):
            victim = self._victim(seq)
            if victim is seq and self.cache.leases.revoke(need - self.promises.allocatable(seq)):
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
            self.copies.hold(old)
        if fresh:
            seq.block_table.extend(fresh)
        done = seq.committed + count == len(seq)
        plan.rows.append(Row(seq, count, [seq, *seq.forks] if done else [], copy))
        return count

    def _blocks_needed(self, seq: Sequence, count: int) -> tuple[int, int | None]:
        """(blocks to allocate for ``count`` more tokens, place of a shared block that is written and so copied)."""
        table, place = seq.block_table, seq.committed // self.block_size
        table_need = -(-(seq.committed + count) // self.block_size) - len(table)
        shared = place < len(table) and self.copies.is_shared(table[place])
        return table_need + shared, place if shared else None

    def _victim(self, needy: Sequence) -> Sequence:
        """Lowest priority, then what nobody reads, then latest admitted; never one that was preempted too often
        already."""
        immune = self.promises.is_immune
        choice = ((s.priority, s.unread, i) for i, s in enumerate(self.running) if s is needy or not immune(s))
        return self.running[max(choice)[2]]

    def _preempt(self, plan: Plan, seq: Sequence) -> None:
        """Back to waiting; its full blocks stay findable, or are swapped to host memory, so that resuming computes
        little."""
        for row in [row for row in plan.rows if row.seq is seq]:
            plan.rows.remove(row)
            self.copies.drop(row)
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
        oldest = self.waiting.first(self.limits.window)
        credit = self.limits.age_credit
        found = [_Candidate(s, len(s) - self.cache.below.reach(s) * self.block_size) for s in oldest]
        return sorted(found, key=lambda c: (c.seq.priority, max(0, c.uncached - credit * c.seq.age), turn(c.seq)))

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
        need = self.promises.needed(seq)
        watermark = int(self.limits.watermark * self.cache.pool.usable) if self.running else 0
        others = watermark + self.promises.begun(self.running)
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
        room = self.promises.allocatable(seq) - (need - len(match.blocks)) - others
        if room > 0 and not seq.speculative:  # what is copied is held for a step: no draft may cost others that
            self.cache.extend(seq, match)
        if count := lanes.chunk(len(seq) - match.tokens):
            self._start(seq, match, lanes)
            lanes.take(seq.remaining, self._grow(plan, seq, count))
        else:
            match.rollback()  # less was restored than was in reach
        return True

    def _start(self, seq: Sequence, match: Match, lanes: Lanes) -> None:
        self.waiting.begin(seq)
        self.running.append(seq)
        self.promises.make(seq)
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
        missing = need - self.promises.allocatable(seq)
        running = self.cache.pool.counts()["active"] if self.running else 0
        if missing > running:
            self.cache.leases.revoke(missing - running)
            missing = need - self.promises.allocatable(seq)
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


@dataclass(frozen=True)
class _Candidate:
    seq: Sequence
    uncached: int
