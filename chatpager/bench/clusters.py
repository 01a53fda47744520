"""Sessions that come to a cluster, simulated event by event: who is asked, what is found, how long a turn waits.

``ASSUMPTIONS`` says what of a replica is left out. Every way of placing gets the same sessions at the same moments; a
turn comes when the one before it was answered and thought about, so a slow cluster is asked later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chatpager.sessions.placement import Candidates, Heat, Loads, Owner, Policy, Replica, heated, place

ASSUMPTIONS = (
    "a replica computes one turn after the other, in the order they come: a prompt at --prefill tokens/s, an answer at "
    "--decode tokens/s, the rate of a whole batch; so a turn waits for all that is queued before it, where a server "
    "lets prompts and answers share its steps",
    "its cache gives up what was least recently used, whole sessions and whole prefixes, and has nothing below it",
    "sessions begin at random (Poisson), have --turns turns on average (geometric), messages, answers and pauses of "
    "exponential lengths, and a share of them begins with one of --groups prefixes a replica, chosen by Zipf's law "
    "(the k-th as often as 1/k)",
    "every turn comes through another front end; each knows queues as they were at the last look, and since then only "
    "what it sent itself, exactly; rows of sessions and groups are read and written at once",
    "no replica joins, leaves or fails, all have one capacity, and nothing takes time between machines",
)


@dataclass(frozen=True)
class Load:
    """Sessions and replicas. Rates are in tokens a second, times in seconds, prefix to answer and room in tokens."""

    replicas: int
    sessions_each: int
    """Sessions for each replica."""
    load: float
    """Work of the cluster's time, if all that is attainable were found."""
    turns: float
    prefix: int
    message: int
    answer: int
    pause: float
    groups: int
    """Prefixes for each replica."""
    grouped: float
    """The share of sessions that begins with one of them."""
    prefill: float
    decode: float
    room: int
    front_ends: int
    refresh: float
    """Between two looks of a front end at the queues."""
    seed: int

    @property
    def sessions(self) -> int:
        return self.sessions_each * self.replicas


class Traffic:
    """All that is drawn, once: the same for every way of placing. Turns of a session lie at ``begins[session]`` on."""

    def __init__(self, load: Load) -> None:
        rng = np.random.default_rng(load.seed)
        turns = rng.geometric(1 / load.turns, load.sessions)
        count = int(turns.sum())
        work = load.turns * ((load.message + 0.5) / load.prefill + (load.answer + 0.5) / load.decode)
        between = work / (load.load * load.replicas)
        self.turns = _one_by_one(turns)
        self.begins = _one_by_one(np.concatenate(([0], turns.cumsum())))
        self.starts = _one_by_one(rng.exponential(between, load.sessions).cumsum())
        self.pauses = _one_by_one(rng.exponential(load.pause, count))
        self.messages = _one_by_one(1 + rng.exponential(load.message - 0.5, count).astype(np.int64))
        self.answers = _one_by_one(1 + rng.exponential(load.answer - 0.5, count).astype(np.int64))
        odds = 1 / np.arange(1, load.groups * load.replicas + 1)
        groups = rng.choice(len(odds), load.sessions, p=odds / odds.sum())
        self.groups = _one_by_one(np.where(rng.random(load.sessions) < load.grouped, groups, -1))
        self.count = count


def _one_by_one(values: npt.NDArray[Any]) -> Sequence[Any]:
    """The same memory, read as Python's own numbers: quicker than numpy's where they are read one at a time."""
    return values.data


class Router(Protocol):
    def choose(self, now: float, front_end: int, session: int, group: int, loads: Loads) -> int:
        """The replica of a turn. ``group`` is -1 where the session has none; ``loads`` are seconds of queued work, as
        this front end knows them."""
        ...


class RoundRobin:
    def __init__(self, load: Load) -> None:
        self._replicas = load.replicas
        self._next = [i * load.replicas // load.front_ends for i in range(load.front_ends)]

    def choose(self, now: float, front_end: int, session: int, group: int, loads: Loads) -> int:
        at = self._next[front_end]
        self._next[front_end] = (at + 1) % self._replicas
        return at


class LeastLoaded:
    """Of several with nothing to do, each front end begins with another one."""

    def __init__(self, load: Load) -> None:
        rng = np.random.default_rng(load.seed)
        self._taste = rng.random((load.front_ends, load.replicas)) * 1e-6

    def choose(self, now: float, front_end: int, session: int, group: int, loads: Loads) -> int:
        return int((loads + self._taste[front_end]).argmin())


class Kept(LeastLoaded):
    """Where a session began, it stays: what a balancer with sticky sessions does, which knows of no prefix."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._at: dict[int, int] = {}

    def choose(self, now: float, front_end: int, session: int, group: int, loads: Loads) -> int:
        at = self._at.get(session)
        if at is None:
            at = self._at[session] = super().choose(now, front_end, session, group, loads)
        return at


class Placed:
    """The code of ``sessions/placement.py``, with the rows of sessions and groups that a database would have."""

    def __init__(self, load: Load, policy: Policy) -> None:
        self._candidates = Candidates([Replica(f"replica-{i:04}") for i in range(load.replicas)], 0.0)
        self._owners: dict[int, Owner] = {}
        self._heats: dict[int, Heat] = {}
        self._policy = policy
        self.moves = 0
        self.most_copies = 1

    def choose(self, now: float, front_end: int, session: int, group: int, loads: Loads) -> int:
        policy, owner = self._policy, self._owners.get(session)
        name, heat = (None, Heat()) if group < 0 else (f"group-{group}", self._heats.get(group, Heat()))
        found = place(
            self._candidates,
            f"session-{session}",
            loads=loads,
            now=now,
            group=name,
            copies=heat.copies,
            owner=owner,
            policy=policy,
        )
        placed_anew = owner is None or found.owner.owner_epoch != owner.owner_epoch
        if placed_anew:
            if group >= 0:
                self._heats[group] = heated(heat, found, now, policy)
                self.most_copies = max(self.most_copies, self._heats[group].copies)
            self.moves += owner is not None and owner.replica != found.owner.replica
        self._owners[session] = found.owner
        return found.at


class Cache:
    """What a replica holds, in tokens, the least recently used first: sessions under their number, the prefix of group
    g under -1 - g. A prefix is used with every turn behind it, so nothing outlives the prefix that it continues."""

    def __init__(self, room: int) -> None:
        self._room, self._used = room, 0
        self._held: dict[int, int] = {}

    def take(self, session: int, group: int, prefix: int, context: int) -> int:
        """Tokens that were found; afterwards the session is held with ``context`` behind its prefix."""
        held = self._held
        own = held.pop(session, 0)
        head = held.pop(-1 - group, 0) if group >= 0 else 0
        held[session] = context
        self._used += context - own
        if group >= 0:
            held[-1 - group] = prefix
            self._used += prefix - head
        while self._used > self._room:
            self._used -= held.pop(next(iter(held)))
        return own + head


@dataclass(frozen=True)
class Outcome:
    """Of every turn, in the order they came. Seconds, and tokens."""

    waits: npt.NDArray[np.float64]
    computing: npt.NDArray[np.float64]
    """Of the prompt."""
    work: npt.NDArray[np.float64]
    """Of each replica, in all."""
    found: int
    attainable: int
    span: float
    """From the first turn to the last session's first turn."""


def simulate(load: Load, traffic: Traffic, router: Router) -> Outcome:
    """Turn after turn in the order of time."""
    caches = [Cache(load.room) for _ in range(load.replicas)]
    free, work = [0.0] * load.replicas, [0.0] * load.replicas
    seen = np.zeros((load.front_ends, load.replicas))
    waits, computing = np.empty(traffic.count), np.empty(traffic.count)
    contexts: dict[int, tuple[int, int]] = {}
    """Of sessions that go on: turns so far, and tokens behind the prefix."""
    known: set[int] = set()
    coming: list[tuple[float, int]] = [(traffic.starts[0], 0)]
    found = attainable = 0
    look = 0.0
    for i in range(traffic.count):
        now, session = heappop(coming)
        turn, context = contexts.pop(session, (0, 0))
        if not turn and session + 1 < load.sessions:
            heappush(coming, (traffic.starts[session + 1], session + 1))
        if now >= look:
            seen[:] = np.maximum(np.array(free) - now, 0.0)
            look = now + load.refresh
        group, place_of = traffic.groups[session], traffic.begins[session] + turn
        message, answer = traffic.messages[place_of], traffic.answers[place_of]
        prefix = load.prefix if group >= 0 else 0
        front_end = (session + turn) % load.front_ends
        at = router.choose(now, front_end, session, group, seen[front_end])
        hit = caches[at].take(session, group, prefix, context + message + answer)
        found += hit
        attainable += context + (prefix if group in known else 0)
        known.add(group)
        prompt = (prefix + context + message - hit) / load.prefill
        needed = prompt + answer / load.decode
        begins = max(free[at], now)
        waits[i], computing[i] = begins - now, prompt
        free[at] = begins + needed
        work[at] += needed
        seen[front_end, at] += needed
        if turn + 1 < traffic.turns[session]:
            contexts[session] = turn + 1, context + message + answer
            heappush(coming, (begins + needed + traffic.pauses[place_of], session))
    return Outcome(
        waits, computing, np.array(work), found, attainable, traffic.starts[load.sessions - 1] - traffic.starts[0]
    )


def figures(name: str, load: Load, outcome: Outcome) -> dict[str, Any]:
    """A row of the report."""
    first = outcome.waits + outcome.computing
    return {
        "replicas": load.replicas,
        "placed_by": name,
        "hit_of_attainable": round(outcome.found / max(1, outcome.attainable), 4),
        "busiest_of_mean": round(float(outcome.work.max() / outcome.work.mean()), 3),
        "busy": round(float(outcome.work.sum()) / (outcome.span or 1.0) / load.replicas, 3),
        **{f"wait_p{q}_s": round(_percentile(outcome.waits, q), 3) for q in (50, 99)},
        "first_token_p99_s": round(_percentile(first, 99), 3),
    }


def _percentile(values: npt.NDArray[np.float64], percent: int) -> float:
    return float(np.percentile(values, percent))


def routers(load: Load, policy: Policy) -> Sequence[tuple[str, Router]]:
    return (
        ("round robin", RoundRobin(load)),
        ("least loaded", LeastLoaded(load)),
        ("least loaded, kept", Kept(load)),
        ("hash alone", Placed(load, Policy(factor=1e12, lease=policy.lease))),
        ("placement", Placed(load, policy)),
    )
