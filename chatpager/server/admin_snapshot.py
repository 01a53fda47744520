"""What the admin page shows live: one look at the server, taken at most once for everybody who looks.

The engine is asked for its figures once a look and never waited for longer than ``PATIENCE``: until its step ends the
last figures are told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from chatpager import __version__
from chatpager.engine.histogram import Distribution
from chatpager.engine.stats import EngineStats
from chatpager.errors import EngineStopped
from chatpager.server import wire_admin as w
from chatpager.server.ledger import Ledger, Sums
from chatpager.server.service import Service
from chatpager.sessions.heads import names_of
from chatpager.sessions.stream import Prefilled
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_states import TurnState

PATIENCE = 0.4
"""Seconds that a look waits for the engine."""
MOST_REQUESTS = 100
FIRST_TOKEN_MINUTES = 15
WINDOWS = (1, 15, 24 * 60)
"""Minutes."""


@dataclass
class Looking:
    """What is kept between two looks."""

    stats: EngineStats | None = None
    asked: asyncio.Task[EngineStats] | None = None
    last: tuple[int, w.Snapshot] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


async def look(service: Service, looking: Looking, sockets: int, *, fresh_ms: int = 0) -> w.Snapshot:
    """The server as it is now, or as it was ``fresh_ms`` ago at the most; ``sockets`` are open."""
    async with looking.lock:
        now = service.hub.wall()
        if looking.last is not None and 0 <= now - looking.last[0] < fresh_ms:
            return looking.last[1]
        state = await _ask(service, looking)
        now = service.hub.wall()
        looking.last = now, snapshot(service, looking.stats, state, now, sockets)
        return looking.last[1]


async def _ask(service: Service, looking: Looking) -> w.EngineState:
    """One question is on its way at a time."""
    thread = service.hub.engine
    if looking.asked is None:
        looking.asked = asyncio.ensure_future(thread.stats())
    done, _ = await asyncio.wait([looking.asked], timeout=PATIENCE)
    if not done:
        return "busy"
    asked, looking.asked = looking.asked, None
    with suppress(EngineStopped):
        looking.stats = asked.result()
        return "ok"
    return "restarting" if thread.restarting else "stopped"


def snapshot(service: Service, stats: EngineStats | None, state: w.EngineState, now: int, sockets: int) -> w.Snapshot:
    ledger, turns = service.metrics.ledger, service.hub.turns.values()
    queued = [turn.created_at for turn in turns if turn.state is TurnState.QUEUED]
    return w.Snapshot(
        at=now,
        started_at=service.started_at,
        version=__version__,
        model=service.served.name,
        status="draining" if service.draining else "ok" if state in ("ok", "busy") else state,
        engine_state=state,
        restarts=service.hub.engine.restarts,
        windows=[window(ledger, ledger.total, 0), *(window(ledger, ledger.window(now, m), 60 * m) for m in WINDOWS)],
        engine=engine_figures(stats) if stats else None,
        first_token_warm=_first_token(ledger, now, warm=True),
        first_token_cold=_first_token(ledger, now, warm=False),
        misses=dict(ledger.misses),
        refused=dict(ledger.refused),
        resumed=ledger.resumed[True],
        resumes_lost=ledger.resumed[False],
        sockets=sockets,
        queue_age=max(0.0, (now - min(queued)) / 1000) if queued else 0.0,
        live=len(turns),
        requests=[live_request(turn) for turn in list(turns)[:MOST_REQUESTS]],
        faults=[w.Fault(**fault._asdict()) for fault in reversed(ledger.faults)],
        pushes=pushes(ledger),
        lag=_lag(ledger.lags),
    )


def window(ledger: Ledger, sums: Sums, seconds: int) -> w.Window:
    total = ledger.total
    pace = total.prefill_seconds / total.computed_tokens if total.computed_tokens else 0.0
    return w.Window(
        seconds=seconds,
        **{name: getattr(sums, name) for name in w.Window.__struct_fields__ if hasattr(sums, name)},
        saved_seconds=round(sums.hit_tokens * pace, 3),
    )


def engine_figures(stats: EngineStats) -> w.EngineFigures:
    memory = stats.memory
    device = memory.blocks - memory.free
    loads = {name: _mean(found) for name, found in stats.tier_load_seconds.items()}
    return w.EngineFigures(
        running=stats.running,
        waiting=stats.waiting,
        blocks=w.Blocks(
            total=memory.blocks,
            block_size=memory.block_size,
            free=memory.free,
            cached=memory.cached - memory.leased - memory.pinned,
            leased=memory.leased,
            pinned=memory.pinned,
            active=memory.active,
            utilisation=round(memory.utilisation, 4),
            waste=round(memory.waste, 4),
        ),
        tiers=[
            w.Tier(
                name="device",
                bytes=device * stats.block_bytes,
                capacity_bytes=memory.blocks * stats.block_bytes,
                hit_tokens=stats.hit_tokens - stats.host_hit_tokens - stats.disk_hit_tokens,
            ),
            w.Tier(
                name="host",
                bytes=stats.host_bytes,
                capacity_bytes=stats.host_capacity,
                hit_tokens=stats.host_hit_tokens,
                load_seconds=loads.get("host"),
            ),
            w.Tier(
                name="disk",
                bytes=stats.disk_bytes,
                capacity_bytes=stats.disk_capacity,
                hit_tokens=stats.disk_hit_tokens,
                load_seconds=loads.get("disk"),
            ),
        ],
        between_tokens=of_distribution(stats.between_tokens),
        **{name: getattr(stats, name) for name in COUNTED},
    )


COUNTED = (
    "queried_tokens",
    "hit_tokens",
    "lost_tokens",
    "evicted_blocks",
    "lease_events",
    "preemptions",
    "swaps",
    "recomputed_tokens",
    "failed_steps",
)


def live_request(turn: LiveTurn) -> w.LiveRequest:
    request, last = turn.request, turn.stream.events[-1] if turn.stream.events else None
    computed = turn.state in (TurnState.DECODE, TurnState.CLOSING)
    progress = last if isinstance(last, Prefilled) else None
    return w.LiveRequest(
        id=turn.id,
        tenant=request.tenant,
        conversation=request.session_id,
        kind=request.kind,
        state=turn.state.value,
        at=turn.created_at,
        prompt_tokens=len(turn.prompt),
        prefilled_tokens=len(turn.prompt) if computed else progress.done if progress else 0,
        cached_tokens=turn.usage.cached_tokens if turn.usage else progress.cached if progress else 0,
        output_tokens=len(turn.token_ids),
        max_tokens=request.params.max_tokens,
    )


def pushes(ledger: Ledger) -> list[w.Push]:
    """The latest first."""
    told = []
    for push in reversed(ledger.pushes):
        (tenant, victim), (by_tenant, by) = names_of(push.victim), names_of(push.by)
        told.append(
            w.Push(
                at=push.at,
                tenant=tenant,
                victim=victim,
                by_tenant=by_tenant or None,
                by=by or None,
                eviction_class=push.eviction_class,
                seconds_ago=round(push.seconds_ago, 3),
                lease_revoked=push.lease_revoked,
            )
        )
    return told


def _first_token(ledger: Ledger, now: int, *, warm: bool) -> w.Quantiles:
    since = now - FIRST_TOKEN_MINUTES * 60_000
    return of_samples(found.seconds for found in ledger.first_tokens if found.warm is warm and found.at >= since)


def of_samples(seconds: Iterable[float]) -> w.Quantiles:
    """Each the smallest sample that at least so many are not above."""
    found = sorted(seconds)

    def at(share: float) -> float | None:
        return found[max(0, -int(-share * len(found) // 1) - 1)] if found else None

    return w.Quantiles(count=len(found), p50=at(0.5), p95=at(0.95), p99=at(0.99))


def of_distribution(found: Distribution) -> w.Quantiles:
    """As Prometheus reads a histogram: linear within a bucket, and of the last one its lower bound."""

    def at(share: float) -> float | None:
        wanted, low, below = share * found.count, 0.0, 0
        for bound, count in found.buckets:
            if count >= wanted and count > below:
                return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (count - below)
            low, below = bound, count
        return None

    return w.Quantiles(count=found.count, p50=at(0.5), p95=at(0.95), p99=at(0.99))


def _mean(found: Distribution) -> float | None:
    return found.seconds / found.count if found.count else None


def _lag(lags: Sequence[float]) -> w.Lag:
    found = sorted(lags)
    return w.Lag(p50=found[len(found) // 2] if found else 0.0, most=found[-1] if found else 0.0)


def encoded(told: w.Snapshot) -> str:
    """A frame of the event stream."""
    return f"event: snapshot\ndata: {msgspec.json.encode(told).decode()}"
