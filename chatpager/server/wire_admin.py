"""The objects of the admin API: figures of the whole server, and nothing of what was said. Times are in milliseconds
since the epoch where they are called ``at``, in seconds elsewhere."""

from __future__ import annotations

from typing import Literal

import msgspec

EngineState = Literal["ok", "busy", "restarting", "stopped"]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Turns that ended in the last ``seconds`` (0: since the start). The hit rate is hit / attainable tokens;
    ``saved_seconds`` is what computing the hit ones would have taken at the pace of those that were computed."""

    seconds: int
    turns: int
    failed: int
    prompt_tokens: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    computed_tokens: int
    attainable_tokens: int
    generated_tokens: int
    hit_tokens: int
    saved_seconds: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one step of time, which begins ``at``."""

    at: int
    turns: int
    prompt_tokens: int
    hit_tokens: int
    attainable_tokens: int
    computed_tokens: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """``points`` are ``step`` seconds apart, without those in which no turn ended."""

    object: str = "admin.history"
    at: int
    seconds: int
    step: int
    points: list[Point]


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds; None where nothing was counted."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """Of the device, each in one state."""

    total: int
    block_size: int
    free: int
    cached: int
    leased: int
    pinned: int
    active: int
    utilisation: float
    waste: float


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """``hit_tokens`` came from it since the start; ``load_seconds`` are of one block."""

    name: Literal["device", "host", "disk"]
    bytes: int
    capacity_bytes: int
    hit_tokens: int
    load_seconds: float | None = None


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine counts, as of the end of its last step that was asked."""

    running: int
    waiting: int
    blocks: Blocks
    tiers: list[Tier]
    queried_tokens: int
    hit_tokens: int
    lost_tokens: int
    evicted_blocks: dict[str, int]
    lease_events: dict[str, int]
    preemptions: int
    swaps: int
    recomputed_tokens: int
    failed_steps: int
    between_tokens: Quantiles


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the engines. ``answers`` are begun there and have not ended, with ``queued_tokens`` left to compute; None
    where there is only one. ``engine`` None: it is not there, or has not answered yet."""

    id: str
    state: Literal["ok", "draining", "restarting", "stopped"]
    restarts: int
    process: int | None
    """Its id on the machine that it runs on; None: the server's own."""
    answers: int | None
    queued_tokens: int | None
    engine: EngineFigures | None


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[ReplicaRow]


class LiveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that runs. ``prefilled_tokens`` of its prompt are done, as far as the engine has said."""

    id: str
    tenant: str
    conversation: str | None
    kind: str
    state: str
    at: int
    prompt_tokens: int
    prefilled_tokens: int
    cached_tokens: int
    output_tokens: int
    max_tokens: int | None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that failed; its message is in the log."""

    at: int
    response_id: str
    tenant: str
    code: str


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """The first block that ``victim`` missed was evicted so many seconds before, when ``by`` needed memory; both are
    conversations or responses."""

    at: int
    tenant: str
    victim: str
    by_tenant: str | None
    by: str | None
    eviction_class: str
    seconds_ago: float
    lease_revoked: bool


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How late the event loop came to what was due in the last minute, in seconds."""

    p50: float
    most: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is live, as of ``at``. ``engine`` None: it has not answered yet. ``queue_age`` is of the request
    that waits longest; of ``requests`` those that began last may be missing, ``live`` says how many there are."""

    object: str = "admin.snapshot"
    at: int
    started_at: int
    version: str
    model: str
    status: str
    engine_state: EngineState
    restarts: int
    windows: list[Window]
    engine: EngineFigures | None
    first_token_warm: Quantiles
    first_token_cold: Quantiles
    misses: dict[str, int]
    refused: dict[str, int]
    resumed: int
    resumes_lost: int
    sockets: int
    queue_age: float
    live: int
    requests: list[LiveRequest]
    faults: list[Fault]
    pushes: list[Push]
    lag: Lag


class LeaseTold(msgspec.Struct, frozen=True, kw_only=True):
    strength: str
    tokens: int
    seconds_left: float
    reason: str


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the turns of one conversation found, and where it is: ``tokens`` as its last turn left it, None where the
    engine does not know it any more."""

    tenant: str
    id: str
    turns: int
    prompt_tokens: int
    hit_tokens: int
    attainable_tokens: int
    at: int
    tokens: int | None
    device_tokens: int | None
    leases: list[LeaseTold]
    replica: str | None
    """Where its next turn goes, unless too much is queued there; None: nowhere at the moment."""


class TenantRow(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    turns: int
    prompt_tokens: int
    hit_tokens: int
    attainable_tokens: int
    at: int


class PrefixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A published prefix: its tokens in prompts, and those of them that came from the cache."""

    label: str
    turns: int
    prompt_tokens: int
    hit_tokens: int
    attainable_tokens: int
    at: int
    tokens: int
    device_tokens: int
    sessions: int


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """Since the start; the ones used last, first."""

    object: str = "admin.tables"
    sessions: list[SessionRow]
    tenants: list[TenantRow]
    prefixes: list[PrefixRow]


class SessionName(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    id: str


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A KV block; ``hash`` is its name in the cache, if it has one."""

    object: str = "admin.block"
    id: int
    code: str
    hash: str | None
    parent: int | None
    depth: int
    children: int
    tokens: int
    refs: int
    pins: int
    hits: int
    heads: int
    soft_leases: int
    hard_leases: int
    unused_seconds: float
    sessions: list[SessionName]


class LeaseRow(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    id: str
    tokens: int
    device_tokens: int
    leases: list[LeaseTold]


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks under hard leases have a ``budget``; ``hard`` and ``soft`` conversations have such leases, of which those
    that end first are told."""

    object: str = "admin.leases"
    budget: int
    leased_blocks: int
    softly_leased_blocks: int
    hard: int
    soft: int
    data: list[LeaseRow]


class BreakTold(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt left the turn before it; not what stood there."""

    response_id: str
    token_index: int
    message_index: int | None
    role: str | None


class TimelineTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn's phases, in milliseconds, and where its prompt came from, in tokens."""

    id: str
    kind: str
    status: str
    at: int
    completed_at: int | None
    error: str | None
    output_tokens: int | None
    queue_ms: float | None
    prefill_ms: float | None
    ttft_ms: float | None
    total_ms: float | None
    prompt_tokens: int | None
    device_tokens: int | None
    host_tokens: int | None
    disk_tokens: int | None
    computed_tokens: int | None
    attainable_tokens: int | None
    miss_reason: str | None
    diverged_at: int | None
    evicted_by: str | None
    broken: BreakTold | None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The latest turns of a conversation, oldest first."""

    object: str = "admin.timeline"
    tenant: str
    id: str
    created_at: int
    turns: list[TimelineTurn]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """``source`` is a flag, a variable, a file, or "default". Of secrets only whether they are set is told."""

    section: str
    name: str
    value: str
    source: str
    help: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "admin.settings"
    data: list[Setting]


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "admin.drain"
    status: str


class Cancelling(msgspec.Struct, frozen=True, kw_only=True):
    """The turn was asked to end; ``state`` is where it stood."""

    object: str = "admin.cancel"
    id: str
    state: str
