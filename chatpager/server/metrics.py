"""Prometheus metrics: stems as vLLM's, under our own prefix. No session, turn or tenant is a label."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from chatpager.engine.stats import EngineStats
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry a server. ``turn_ended`` counts; ``render`` adds the engine's figures of the moment."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._turns = Counter("chatpager_turns", "Turns that ended", ["kind", "status"], registry=r)
        self._prompt = Counter(
            "chatpager_prompt_tokens", "Prompt tokens by where they came from", ["source"], registry=r
        )
        self._generated = Counter("chatpager_generated_tokens", "Tokens generated", registry=r)
        self._misses = Counter("chatpager_miss_turns", "Turns by why the cache gave no more", ["reason"], registry=r)
        self._ttft = Histogram("chatpager_ttft_seconds", "Time to first token", ["cache"], registry=r, buckets=SECONDS)
        self._queue = Histogram("chatpager_queue_seconds", "Time until admission", registry=r, buckets=SECONDS)
        self.sockets = Gauge("chatpager_ws_connections", "Open WebSockets", registry=r)
        self._requests = Gauge("chatpager_requests", "Sequences in the engine", ["state"], registry=r)
        self._blocks = Gauge("chatpager_kv_blocks", "KV blocks", ["state"], registry=r)
        self._usage = Gauge("chatpager_kv_utilisation", "Used share of the KV slots", registry=r)
        self._waste = Gauge("chatpager_kv_waste", "Share of allocated KV slots that hold no token", registry=r)
        self._tiers = Gauge("chatpager_tier_bytes", "KV bytes below the device", ["tier"], registry=r)
        self._engine = EngineCounters()
        r.register(self._engine)

    def turn_ended(self, turn: LiveTurn, ended: Ended) -> None:
        self._turns.labels(turn.request.kind, ended.status).inc()
        self._generated.inc(ended.output_tokens)
        self._queue.observe(ended.timings.queue_ms / 1000)
        if ended.receipt is None or turn.index:  # the first of several answers computed the prompt for all
            return
        self._prompt.labels("device").inc(ended.receipt.device_tokens)
        self._prompt.labels("host").inc(ended.receipt.host_tokens)
        self._prompt.labels("disk").inc(ended.receipt.disk_tokens)
        self._prompt.labels("computed").inc(ended.receipt.computed_tokens)
        if ended.receipt.miss_reason:
            self._misses.labels(ended.receipt.miss_reason).inc()
        if ended.timings.ttft_ms is not None:
            warm = "warm" if ended.receipt.cached_tokens >= ended.receipt.block_size else "cold"
            self._ttft.labels(warm).observe(ended.timings.ttft_ms / 1000)

    def render(self, stats: EngineStats | None) -> bytes:
        """The exposition text; ``stats`` None when the engine has stopped."""
        if stats is not None:
            memory = stats.memory
            self._requests.labels("running").set(stats.running)
            self._requests.labels("waiting").set(stats.waiting)
            for state, count in (("free", memory.free), ("cached", memory.cached), ("active", memory.active)):
                self._blocks.labels(state).set(count)
            self._usage.set(memory.utilisation)
            self._waste.set(memory.waste)
            self._tiers.labels("host").set(stats.host_bytes)
            self._tiers.labels("disk").set(stats.disk_bytes)
            self._engine.stats = stats
        return generate_latest(self.registry)


class EngineCounters(Collector):
    """What the engine counts itself, as of ``stats``."""

    stats: EngineStats | None = None

    def collect(self) -> Iterable[Metric]:
        if self.stats is None:
            return
        for name, text, value in (
            ("prefix_cache_queried_tokens", "Prompt tokens looked up in the prefix cache", self.stats.queried_tokens),
            ("prefix_cache_hit_tokens", "Prompt tokens found there", self.stats.hit_tokens),
            ("evicted_blocks", "Cached blocks evicted", self.stats.evicted_blocks),
            ("bad_disk_files", "KV files that were not what their names say", self.stats.bad_disk_files),
            ("failed_disk_writes", "KV blocks that the disk did not take", self.stats.failed_disk_writes),
            ("late_disk_loads", "Prompts for which the disk was given up", self.stats.late_disk_loads),
            ("preemptions", "Sequences preempted", self.stats.preemptions),
            ("recomputed_tokens", "Tokens computed again after preemption", self.stats.recomputed_tokens),
            ("failed_steps", "Steps that raised, repeats row by row included", self.stats.failed_steps),
        ):
            yield CounterMetricFamily(f"chatpager_{name}", text, value=value)
