"""Prometheus metrics: stems as vLLM's, under our own prefix. No session, turn or tenant is a label."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import inf

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chatpager.engine.histogram import Distribution
from chatpager.engine.stats import EngineStats
from chatpager.errors import Overloaded, RateLimited
from chatpager.server.lags import Lags
from chatpager.server.ledger import Ledger
from chatpager.server.numeric_health import NumericHealth
from chatpager.server.own_figures import OwnFigures
from chatpager.sessions.engine_host import ReplicaState
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LONG_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One registry a server. ``turn_ended`` counts; ``render`` adds the engine's figures of the moment. The ``ledger``
    is told the same, for the admin page."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.registry = r = CollectorRegistry()
        self._turns = Counter("chatpager_turns", "Turns that ended", ["kind", "status"], registry=r)
        self._prompt = Counter(
            "chatpager_prompt_tokens", "Prompt tokens by where they came from", ["source"], registry=r
        )
        self._attainable = Counter(
            "chatpager_attainable_tokens",
            "Prompt tokens that the cache could have given had nothing been evicted",
            registry=r,
        )
        self._generated = Counter("chatpager_generated_tokens", "Tokens generated", registry=r)
        self._misses = Counter("chatpager_miss_turns", "Turns by why the cache gave no more", ["reason"], registry=r)
        self._ttft = Histogram("chatpager_ttft_seconds", "Time to first token", ["cache"], registry=r, buckets=SECONDS)
        self._duration = Histogram(
            "chatpager_turn_seconds", "From a turn's request to its end", ["status"], registry=r, buckets=LONG_SECONDS
        )
        self._queue = Histogram(
            "chatpager_queue_seconds",
            "Time until admission, by whether there was much to compute",
            ["lane"],
            registry=r,
            buckets=SECONDS,
        )
        self._resumes = Counter(
            "chatpager_resumes",
            "Readers that came back to a response, by whether its events were still there",
            ["recovered"],
            registry=r,
        )
        self._lag = Lags(
            "chatpager_event_loop_lag_seconds", "How late the event loop comes to what is due", LAG_SECONDS
        )
        r.register(self._lag)
        self._sent = Lags(
            "chatpager_step_to_socket_seconds",
            "From the end of a step to the write of what it brought to a WebSocket",
            LAG_SECONDS,
        )
        r.register(self._sent)
        self._sending: dict[float, int] = {}
        """Events that are written in this round of the event loop, by when their steps ended."""
        self._refused = Counter(
            "chatpager_refused",
            "Turns and sockets for which there was no room, by their errors",
            ["code"],
            registry=r,
        )
        self.sockets = Gauge("chatpager_ws_connections", "Open WebSockets", registry=r)
        self._engine = EngineFigures()
        r.register(self._engine)
        self.numbers = NumericHealth()

    def turn_ended(self, turn: LiveTurn, ended: Ended) -> None:
        self.numbers.turn_ended(ended)
        self.ledger.turn_ended(turn, ended, warm=_is_warm(turn, ended))
        self._turns.labels(turn.request.kind, ended.status).inc()
        self._duration.labels(ended.status).observe(ended.timings.total_ms / 1000)
        self._generated.inc(ended.output_tokens)
        if turn.usage is not None and turn.usage.admitted:
            lane = "long" if turn.usage.is_long else "short"
            self._queue.labels(lane).observe(turn.usage.queue_seconds)
        if ended.receipt is None or turn.index:  # the first of several answers computed the prompt for all
            return
        self._prompt.labels("device").inc(ended.receipt.device_tokens)
        self._prompt.labels("host").inc(ended.receipt.host_tokens)
        self._prompt.labels("disk").inc(ended.receipt.disk_tokens)
        self._prompt.labels("computed").inc(ended.receipt.computed_tokens)
        self._attainable.inc(ended.receipt.attainable_tokens)
        if ended.receipt.miss_reason:
            self._misses.labels(ended.receipt.miss_reason).inc()
        if ended.timings.ttft_ms is not None:
            warm = "warm" if _is_warm(turn, ended) else "cold"
            self._ttft.labels(warm).observe(ended.timings.ttft_ms / 1000)

    def refused(self, error: Overloaded | RateLimited) -> None:
        self.ledger.refused[error.code] += 1
        self._refused.labels(error.code).inc()

    def resumed(self, *, recovered: bool) -> None:
        self.ledger.resumed[recovered] += 1
        self._resumes.labels(str(recovered).lower()).inc()

    def sending(self, stepped_at: float) -> None:
        """An event of a step that ended then (on ``time.monotonic``) was given to a WebSocket's transport, which writes
        it before the event loop's next round. Only that counts as sent."""
        if not self._sending:
            asyncio.get_running_loop().call_soon(self._sent_all)
        self._sending[stepped_at] = self._sending.get(stepped_at, 0) + 1

    def _sent_all(self) -> None:
        now, sent, self._sending = time.monotonic(), self._sending, {}
        for stepped_at, count in sent.items():
            self._sent.add(now - stepped_at, count)

    def loop_was_late(self, seconds: float) -> None:
        self.ledger.lags.append(seconds)
        self._lag.add(seconds)

    def render(
        self,
        stats: Mapping[str, EngineStats],
        own: OwnFigures | None = None,
        replicas: Sequence[ReplicaState] = (),
    ) -> bytes:
        """The exposition text; ``stats`` by replica, without those that do not tell them now."""
        self._engine.own = own or self._engine.own
        self._engine.replicas = [(one, one.alive and one.id in stats) for one in replicas]
        self._engine.stats |= stats
        return generate_latest(self.registry)


def _is_warm(turn: LiveTurn, ended: Ended) -> bool | None:
    """Whether a whole block of its prompt was found, or three quarters of it; None of a turn that asked for none of
    its own."""
    told = ended.receipt
    if told is None or turn.index:
        return None
    return told.cached_tokens >= min(told.block_size, 0.75 * told.prompt_tokens)


class EngineFigures(Collector):
    """What engines count themselves, as of ``stats``, by replica; and what the process takes."""

    own = OwnFigures()

    def __init__(self) -> None:
        self.stats: dict[str, EngineStats] = {}
        self.replicas: list[tuple[ReplicaState, bool]] = []
        """With whether each answers."""

    def collect(self) -> Iterable[Metric]:
        yield from self.own.collect()
        yield from _states(self.replicas)
        yield from _by_replica(self.stats) if len(self.stats) > 1 else chain(*map(_figures, self.stats.values()))


def _states(replicas: Sequence[tuple[ReplicaState, bool]]) -> Iterator[Metric]:
    answers = GaugeMetricFamily("chatpager_replica_up", "Whether the replica answers", labels=["replica"])
    drains = GaugeMetricFamily("chatpager_replica_draining", "Whether it begins no turns", labels=["replica"])
    restarts = CounterMetricFamily("chatpager_replica_restarts", "How often it was made again", labels=["replica"])
    for replica, up in replicas:
        answers.add_metric([replica.id], up)
        drains.add_metric([replica.id], replica.draining)
        restarts.add_metric([replica.id], replica.restarts)
    yield from (answers, drains, restarts)


def _figures(stats: EngineStats) -> Iterator[Metric]:
    yield from _gauges(stats)
    yield from _counters(stats)
    yield from _histograms(stats)


def _by_replica(all_stats: Mapping[str, EngineStats]) -> Iterable[Metric]:
    found: dict[str, Metric] = {}
    for replica, stats in all_stats.items():
        for metric in _figures(stats):
            family = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += [one._replace(labels={"replica": replica, **one.labels}) for one in metric.samples]
    return found.values()


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    memory = stats.memory
    requests = {"running": stats.running, "waiting": stats.waiting}
    blocks = {
        "free": memory.free,
        "cached": memory.cached - memory.leased - memory.pinned,
        "leased": memory.leased,
        "pinned": memory.pinned,
        "active": memory.active,
    }
    tiers = {"host": stats.host_bytes, "disk": stats.disk_bytes}
    for name, text, label, values in (
        ("requests", "Sequences in the engine", "state", requests),
        ("kv_blocks", "KV blocks, each in one state; who is active holds them, whatever leases say", "state", blocks),
        ("leased_blocks", "KV blocks under leases, active ones included", "strength", stats.leased_blocks),
        ("tier_bytes", "KV bytes below the device", "tier", tiers),
        ("block_seconds", "What a block takes, on a moving average", "way", stats.block_seconds),
    ):
        yield _labelled(GaugeMetricFamily(f"chatpager_{name}", text, labels=[label]), values)
    yield GaugeMetricFamily("chatpager_kv_utilisation", "Used share of the KV slots", value=memory.utilisation)
    waste = "Share of allocated KV slots that hold no token"
    yield GaugeMetricFamily("chatpager_kv_waste", waste, value=memory.waste)


def _counters(stats: EngineStats) -> Iterator[Metric]:
    double = stats.hit_tokens + stats.lost_within_double
    for name, text, value in (
        ("prefix_cache_queried_tokens", "Prompt tokens looked up in the prefix cache", stats.queried_tokens),
        ("prefix_cache_hit_tokens", "Prompt tokens found there", stats.hit_tokens),
        ("prefix_cache_double_hit_tokens", "Those that a pool of twice the size would have had", double),
        ("lost_hit_tokens", "Prompt tokens that had been evicted not long before", stats.lost_tokens),
        ("bad_disk_files", "KV files that were not what their names say", stats.bad_disk_files),
        ("failed_disk_writes", "KV blocks that the disk did not take", stats.failed_disk_writes),
        ("late_disk_loads", "Prompts for which the disk was given up", stats.late_disk_loads),
        ("failed_steps", "Steps that raised, repeats row by row included", stats.failed_steps),
    ):
        yield CounterMetricFamily(f"chatpager_{name}", text, value=value)
    preemptions = {"swap": stats.swaps, "recompute": stats.preemptions - stats.swaps}
    computed_again = {"preemption": stats.recomputed_tokens, "failed_step": stats.repeated_tokens}
    for name, text, label, values in (
        ("evicted_blocks", "Cached blocks evicted, by what they were worth", "class", stats.evicted_blocks),
        ("tier_passed_over", "Searches that ended because computing is faster", "tier", stats.passed_over),
        ("lease_events", "What became of leases", "kind", stats.lease_events),
        ("preemptions", "Sequences preempted, by what becomes of their blocks", "mode", preemptions),
        ("recomputed_tokens", "Tokens computed once more than needed", "cause", computed_again),
    ):
        yield _labelled(CounterMetricFamily(f"chatpager_{name}", text, labels=[label]), values)


def _histograms(stats: EngineStats) -> Iterator[Metric]:
    for name, text, label, values in (
        ("evict_age", "Since an evicted block was used", None, {"": stats.evict_age}),
        ("reuse_gap", "Between two uses of a block on the device", None, {"": stats.reuse_gap}),
        ("itl", "From one token of a sequence to its next", None, {"": stats.between_tokens}),
        ("tier_load", "To bring a block back", "tier", stats.tier_load_seconds),
    ):
        family = HistogramMetricFamily(f"chatpager_{name}_seconds", text, labels=[label] if label else [])
        for key, found in values.items():
            family.add_metric([key] if label else [], _buckets(found), found.seconds)
        yield family


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    return [("+Inf" if bound == inf else str(bound), count) for bound, count in found.buckets]


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]
) -> CounterMetricFamily | GaugeMetricFamily:
    for value, count in values.items():
        family.add_metric([value], count)
    return family
