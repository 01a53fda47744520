"""One step after the other: what is planned is computed, and its requests are told what it brought."""

from __future__ import annotations

from collections.abc import Callable

from chatpager.engine.attempts import Attempts
from chatpager.engine.drafts import Drafts
from chatpager.engine.messages import FinishReason
from chatpager.engine.open_requests import OpenRequests
from chatpager.engine.overlap import overlapping
from chatpager.engine.plan import Plan, Row
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.runner import Runner
from chatpager.engine.sampler import Sampled
from chatpager.engine.scheduler import Scheduler
from chatpager.engine.sequence import Sequence, SequenceStatus
from chatpager.errors import EngineError, NumericError

MEASURED_BLOCKS = 4
"""Blocks that a step must compute for its time to say something about one."""


class Steps:
    """``overlap`` is the setting of that name. A row whose computing went wrong ends its request, and no other."""

    def __init__(
        self,
        scheduler: Scheduler,
        cache: PrefixCache,
        runner: Runner,
        requests: OpenRequests,
        drafts: Drafts,
        *,
        overlap: str,
    ) -> None:
        self._scheduler = scheduler
        self._cache = cache
        self._requests = requests
        self._drafts = drafts
        self.attempts = Attempts(runner)
        self._overlap = overlapping(overlap, scheduler, runner, self.attempts)
        self.on_launch: Callable[[], None] = lambda: None
        """Called where a step is planned and its model about to run, which leaves the interpreter to other threads."""

    @property
    def flies(self) -> bool:
        """Whether one is launched ahead, whose tokens are yet to be told."""
        return self._overlap is not None and self._overlap.flies

    def land(self) -> None:
        """Wait for one that was launched ahead, and tell nothing of it: what somebody wants is computed again."""
        if self._overlap is not None:
            self._overlap.land()

    def compute(self, clock: Callable[[], float]) -> None:
        """One, if there is anything to compute."""
        now = clock()
        self._cache.leases.tick(now)
        plan = None
        if not self.flies:
            plan = self._scheduler.schedule()
            if not plan.rows:
                told = self._requests.outputs
                assert told or not self._scheduler.waiting or self._scheduler.running, "requests wait and nothing runs"
                return
            self._begin(plan, now)
        plan, computed = self._results(plan)
        began, now = now, clock()
        self._time_step(plan, now - began)
        for row, result in computed:
            if row.seq.status is not SequenceStatus.RUNNING:
                continue  # it left while the step ran, or a sibling's failure ended its request a moment ago
            if isinstance(result, EngineError):
                self._fail(row, result)
            else:
                self._advance(row, result, now)

    def _begin(self, plan: Plan, now: float) -> None:
        for row in plan.rows:
            seq = row.seq
            if seq.sampled_at is not None:
                continue
            request = self._requests[seq.request_id]
            if request.started is None:
                request.started = now
                request.draft_tokens = self._claim_draft(seq)

    def _results(self, plan: Plan | None) -> tuple[Plan, list[tuple[Row, list[Sampled] | EngineError]]]:
        """``plan``, or the step that was launched ahead."""
        try:
            if self._overlap is not None:
                return self._overlap.compute(plan, self.on_launch)
            assert plan is not None
            self.on_launch()
            return plan, self.attempts.compute(plan)
        except BaseException:
            if plan is not None:
                self._scheduler.copies.take_back(plan)
            raise

    def _claim_draft(self, seq: Sequence) -> int:
        if seq.speculative or not self._cache.enabled:
            return 0
        names = seq.full_hashes(self._cache.matchable_blocks(seq))
        on_device = seq.cached_tokens - seq.restored_tokens.total()
        return self._drafts.claim(names, on_device // self._cache.block_size)

    def _time_step(self, plan: Plan, seconds: float) -> None:
        """For the size of coming steps; and what a block costs, where this one computed enough of them to tell."""
        self._scheduler.took(plan, seconds)
        if self._cache.tiers is not None:
            blocks = sum([row.count for row in plan.rows]) / self._cache.block_size
            if blocks >= MEASURED_BLOCKS:
                self._cache.tiers.times.compute.add(seconds / blocks)

    def _advance(self, row: Row, sampled: list[Sampled], now: float) -> None:
        for s in sampled:
            if s.token_id is None and s.failure is None:
                self._fail(row, NumericError("the model's logits are not numbers"))
                return
        self._scheduler.commit(row)
        seq = row.seq
        if not row.samples:
            self._requests.tell_progress(seq, now)
            return
        if seq.sampled_at is None:
            request = self._requests[seq.request_id]
            if request.first_token is None:
                request.first_token = now
        for sample, s in zip(row.samples, sampled, strict=True):
            if s.token_id is None:  # what was computed is sound, and its siblings follow the grammar elsewhere
                self._requests.end_sequence(sample, FinishReason.ERROR, s.failure)
                self._requests.forget(seq.request_id, sample.index)
            else:
                self._requests.tell_token(sample, s.token_id, s.logprobs, now)

    def _fail(self, row: Row, error: EngineError) -> None:
        """A request whose step went wrong ends; what it computed is not found again if it may be poisoned."""
        if isinstance(error, NumericError):
            self._cache.discard(row.seq)
        self._requests.end_request(row.seq.request_id, FinishReason.ERROR, error)
