"""The engine's face: ``add``, ``cancel``, ``step``. One thread owns it; time comes in as an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from chatpager.config import EngineConfig
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.cache_events import CacheEvent
from chatpager.engine.drafts import DRAFT, ONE_TOKEN, Drafts
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.heads import LeaseChange, LeaseEvent
from chatpager.engine.intake import Intake
from chatpager.engine.known_sessions import KnownSessions
from chatpager.engine.messages import (
    AddRequest,
    DraftRequest,
    FinishReason,
    LeaseRequest,
    PublishPrefix,
    StepOutput,
    Usage,
)
from chatpager.engine.open_requests import OpenRequests
from chatpager.engine.open_tiers import open_tiers
from chatpager.engine.plan import Limits
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.published import PublishedPrefix
from chatpager.engine.request import Request
from chatpager.engine.runner import Runner
from chatpager.engine.scheduler import Scheduler
from chatpager.engine.sequence import SequenceStatus, set_apart
from chatpager.engine.stats import EngineStats, cache_stats, memory_stats, tier_stats
from chatpager.engine.steps import Steps
from chatpager.engine.tiers import TRIED_BLOCKS, Tiers
from chatpager.errors import InvalidRequest

FINGERPRINT_DIGITS = 12


class Engine:
    """Continuous batching over a paged, hashed KV cache."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        *,
        limits: Limits | None = None,
        hash_bits: int = 128,
        tiers: Tiers | None = None,
        domain: bytes = b"",
    ) -> None:
        """``tiers`` None: those that ``config`` asks for, if blocks have names at all; ``domain``, a secret, tells
        whether what they kept can be found again, which is of the same. Raises ConfigError where its folder cannot be
        used."""
        self.config = config
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks)
        # One block is kept for a copied tail; what can never be allocated would be waited for for ever.
        longest = min(runner.max_model_len, (self.pool.usable - 1) * config.block_size)
        if limits is None:
            # A step always has room for one token of every running sequence.
            seqs = min(config.max_num_seqs, config.max_num_batched_tokens)
            limits = Limits(config.max_num_batched_tokens, seqs, step_seconds=config.step_seconds)
        self._intake = Intake(config, runner, longest=longest, max_num_seqs=limits.max_num_seqs, hash_bits=hash_bits)
        self.tiers = tiers
        if tiers is None and config.enable_prefix_caching:
            self.tiers = open_tiers(config, runner, self._intake.hasher(domain).proof, domain)
        self.cache = PrefixCache(
            self.pool,
            config.block_size,
            enabled=config.enable_prefix_caching,
            lease_budget=self._lease_budget(longest, limits.watermark),
            tiers=self.tiers,
            max_heads=config.known_conversations,
        )
        if self.tiers is not None:
            self.tiers.measure(list(self.pool.free)[:TRIED_BLOCKS])
        self.leases = self.cache.leases
        self.scheduler = Scheduler(self.cache, limits)
        self.drafts = Drafts(self.cache, limits.max_num_batched_tokens)
        self.published = self._intake.published
        self.sessions = KnownSessions(self.cache, self.published, self.drafts, max_model_len=runner.max_model_len)
        self._requests = OpenRequests(self.scheduler, self.sessions, self.leases)
        self.steps = Steps(self.scheduler, self.cache, runner, self._requests, self.drafts, overlap=config.overlap)

    @property
    def grammars(self) -> GrammarCompiler | None:
        """What compiles the grammars of requests, set by whoever has the tokenizer. A grammar that somebody holds
        compiled costs the engine nothing."""
        return self._intake.grammars

    @grammars.setter
    def grammars(self, compiler: GrammarCompiler) -> None:
        self._intake.grammars = compiler

    # -- commands -----------------------------------------------------------------------------------------------------

    def add(self, request: AddRequest, now: float) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: no prompt, a token outside the vocabulary (also in ``logit_bias``), an id in use, or a
                grammar that cannot be used.
            ContextLengthExceeded: prompt and one token of answer do not fit ``max_model_len``.
            CapacityExceeded: they do not fit the pool, whatever is evicted.
        """
        self.leases.tick(now)
        if request.request_id in self._requests:
            raise InvalidRequest(f"request id {request.request_id!r} is in use", param="request_id")
        first = self._intake.sequence(request)
        seqs = [first, *first.forks]
        self._requests[request.request_id] = Request(seqs, now, unfinished={s.index for s in seqs})
        self.sessions.begin(seqs)
        self.scheduler.add(first)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences, in whatever state it is; unknown and ended ones are left alone."""
        request = self._requests.get(request_id)
        if request is None or (index is not None and index not in request.unfinished):
            return
        if index is None:
            self._requests.end_request(request_id, FinishReason.CANCELLED)
        else:
            set_apart(request.seqs, index)
            self._requests.end_sequence(request.seqs[index], FinishReason.CANCELLED)
            self._requests.forget(request_id, index)

    def attend(self, request_id: str, *, is_read: bool) -> None:
        """Whether anybody reads its answers; unknown and ended ones are left alone."""
        if request := self._requests.get(request_id):
            for seq in request.seqs:
                seq.unread = not is_read

    def stop(self, request_id: str, index: int = 0) -> Usage | None:
        """End one sequence because its reader found a stop string; no output is made for it. Its account, or None of
        one that has ended."""
        request = self._requests.get(request_id)
        if request is None or index not in request.unfinished:
            return None
        set_apart(request.seqs, index)
        usage = self._requests.usage(request.seqs[index])
        self._requests.end_turn(request.seqs[index])
        self._requests.forget(request_id, index)
        return usage

    def lease(self, request: LeaseRequest, now: float) -> LeaseEvent | None:
        """Give or renew a lease; None: nothing is known of its session."""
        self.leases.tick(now)
        return self.leases.acquire(
            request.owner,
            request.strength,
            request.ttl,
            tokens=request.tokens,
            reason=request.reason,
            replaces=request.replaces,
        )

    def prefetch(self, request: AddRequest, now: float) -> int:
        """Bring to the device what the lower tiers have of a prompt that its session is expected to send: only while
        nothing is computed, into memory that nobody uses. Tokens brought.

        Raises what ``add`` does.
        """
        self.leases.tick(now)
        seq = self._intake.sequence(request, speculative=True)
        match = self.cache.match(seq)
        try:
            missing = self.cache.below.reach(seq) - len(match.blocks)
            if 0 < missing <= self.cache.spare() and not self.computes:
                self.cache.below.restore(seq, match)
        finally:
            match.rollback()
        head = self.leases.heads.get(seq.owner)
        if match.restored and (head is None or len(match.blocks) >= len(head.proofs)):
            self.cache.heads.move(seq.owner, seq.hasher.tenant, match.blocks)
        return match.restored.total() * self.config.block_size

    def draft(self, request: DraftRequest, now: float) -> None:
        """Somebody is still writing this prompt: its full blocks are computed as far as that costs nobody anything.

        Raises what ``add`` does.
        """
        self.leases.tick(now)
        if not request.prompt_token_ids or not self.cache.enabled:
            self.drafts.drop(request.owner)
            return
        whole = AddRequest(
            request_id=DRAFT, prompt_token_ids=request.prompt_token_ids, params=ONE_TOKEN, salt=request.salt
        )
        self.drafts.put(request.owner, self._intake.sequence(whole, speculative=True))

    def publish(self, command: PublishPrefix) -> PublishedPrefix:
        """Prompts that come from now on and begin with these tokens share their blocks, whosever they are; what runs
        keeps the names it has. Raises what ``PublishedPrefixes.publish`` does."""
        return self.published.publish(command.label, command.token_ids)

    # -- steps --------------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        saving = self.tiers is not None and self.tiers.has_work
        return bool(self.computes or self._requests.outputs or saving or self.drafts.wait)

    @property
    def computes(self) -> bool:
        """Whether the next step has something for the model, as far as can be told before it is planned."""
        return bool(self.scheduler.running or self.scheduler.waiting or self.steps.flies)

    def step(self, clock: Callable[[], float]) -> list[StepOutput]:
        """Compute one step and say what it brought. ``clock`` is any that does not go back, in seconds. After one that
        was interrupted (Ctrl+C) the engine is whole: the next computes what this one did not, and tells what it did."""
        if self.tiers is not None:
            self.tiers.give_way(self.computes)
        self._speculate(clock())
        try:
            self.steps.compute(clock)
        finally:
            self.scheduler.copies.settle()
        self.drafts.settle()
        if self.tiers is not None:
            self.tiers.give_way(self.computes)
            self.tiers.work(idle=not self.computes)
        return [output for output in self._requests.take_outputs() if output.request_id != DRAFT]

    def _speculate(self, now: float) -> None:
        """Where there is nothing else to compute, compute a slice of what somebody is still writing."""
        if not self.computes and (part := self.drafts.next_slice()):
            self._requests[DRAFT] = Request([part], now, unfinished={0})
            self.scheduler.add(part)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _lease_budget(self, longest: int, watermark: float) -> int:
        """Blocks for hard leases: a share of the pool, and never those that the longest request needs."""
        usable = self.pool.usable
        floor = -(-longest // self.config.block_size) + 1 + int(watermark * usable)
        return max(0, min(int(self.config.lease_share * usable), usable - floor))

    def stats(self) -> EngineStats:
        """Queue, cache and memory as they are now; cheap enough for once a second."""
        running = self.scheduler.running
        return EngineStats(
            running=len(running),
            waiting=len(self.scheduler.waiting),
            memory=memory_stats(self.pool, running, self.config.block_size),
            **cache_stats(self.cache.stats),
            **tier_stats(self.tiers, self.runner.block_bytes),
            leased_blocks={"soft": self.pool.softly_leased, "hard": self.pool.leased},
            lease_events={change: self.leases.counts[change] for change in get_args(LeaseChange)},
            preemptions=self.scheduler.stats.preemptions,
            swaps=self.scheduler.stats.swaps,
            recomputed_tokens=self.scheduler.stats.recomputed_tokens,
            repeated_tokens=self.steps.attempts.repeated_tokens,
            deferred=self.scheduler.stats.deferred,
            failed_steps=self.steps.attempts.failed_steps,
            between_tokens=self._requests.between_tokens.distribution(),
        )

    def cache_events(self, after: int | None, limit: int) -> tuple[list[CacheEvent], int]:
        """At most ``limit`` events after number ``after``, and how many are lost between. None: what there is now,
        however much."""
        return (self.pool.snapshot(), 0) if after is None else self.pool.events.since(after, limit)

    @property
    def warm_fraction(self) -> float | None:
        """Of what conversations consisted of at the start, the share that the disk had; None where nothing is known."""
        return self.tiers.disk.warm_fraction if self.tiers and self.tiers.disk is not None else None

    @property
    def fingerprint(self) -> str:
        """Of all that makes the keys and values what they are, the salt apart: tells whether another server's blocks
        could be found here."""
        return self._intake.hasher(b"").proof.hex()[:FINGERPRINT_DIGITS]

    def close(self) -> None:
        """Write what is still to be written. Nothing is computed after it."""
        self.land()
        if self.tiers is not None:
            self.tiers.close()

    def land(self) -> None:
        """Wait for a step that was launched ahead, and tell nothing of it: what somebody wants is computed again."""
        self.steps.land()

    def audit(self) -> None:
        """Check every invariant of pool, cache and queues; asserts with the numbers."""
        running = self.scheduler.running
        self.cache.audit([*(seq.block_table for seq in running), *self.scheduler.quarantine.tables()])
        for seq in running:
            assert seq.status is SequenceStatus.RUNNING, seq.status
            allocated = self.config.block_size * len(seq.block_table)
            assert seq.committed <= allocated, (seq.committed, allocated)
        assert self.scheduler.occupied <= self.scheduler.limits.max_num_seqs, "more sequences than a step has rows"
        assert all(not seq.block_table for seq in self.scheduler.waiting)
        alive = sum(1 + len(seq.forks) for seq in (*running, *self.scheduler.waiting))
        unfinished = sum(len(request.unfinished) for request in self._requests.values())
        assert alive == unfinished, f"{unfinished} sequences have not ended, the scheduler has {alive}"
