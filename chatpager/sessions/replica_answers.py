"""One answer from those of several engines."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from chatpager.engine.histogram import Distribution
from chatpager.engine.questions import (
    LargestSessions,
    LeasedWanted,
    PublishedWanted,
    Publishing,
    Question,
    RecordsGone,
    RecordsWanted,
    ResidencesWanted,
    StatsWanted,
)
from chatpager.engine.residence import Leased, Residence
from chatpager.engine.stats import EngineStats, MemoryStats, PublishedCache, SessionCache

T = TypeVar("T")


def merged(question: Question[T], answers: Sequence[T]) -> T:
    """Of at least one engine that could answer, to a question that all are asked."""
    merge: Callable[[Any, Any], Any] = _MERGES[type(question)]
    return merge(question, answers)  # type: ignore[no-any-return]  # as each of the answers is one


def stats_of(all_stats: Sequence[EngineStats]) -> EngineStats:
    """Of several engines together: what is counted is added, times and shares of one are their mean."""
    return EngineStats(**{name: _joined(name, all_stats) for name in EngineStats.__struct_fields__})


def _joined(name: str, all_stats: Sequence[Any]) -> Any:
    values = [getattr(stats, name) for stats in all_stats]
    match values[0]:
        case MemoryStats():
            return MemoryStats(**{field: _joined(field, values) for field in MemoryStats.__struct_fields__})
        case Distribution():
            return _together(values)
        case dict():
            keys = {key: None for value in values for key in value}
            return {key: _of_key(name, [value[key] for value in values if key in value]) for key in keys}
        case first if name in ("block_bytes", "block_size"):
            return first
    if name == "warm_fraction":
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None
    return sum(values)


def _of_key(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Distribution):
        return _together(values)
    return sum(values) / len(values) if name == "block_seconds" else sum(values)


def _together(found: Sequence[Distribution]) -> Distribution:
    bounds = [bound for bound, _ in found[0].buckets]
    counts = [sum(each) for each in zip(*([count for _, count in one.buckets] for one in found), strict=True)]
    return Distribution(list(zip(bounds, counts, strict=True)), sum(one.seconds for one in found))


def _largest(question: LargestSessions, answers: Sequence[list[tuple[str, SessionCache]]]) -> Any:
    """A conversation that has moved is known to both: where it has most counts."""
    best: dict[str, SessionCache] = {}
    for owner, cache in (pair for answer in answers for pair in answer):
        if owner not in best or cache.device_tokens > best[owner].device_tokens:
            best[owner] = cache
    return heapq.nlargest(question.limit, best.items(), key=lambda pair: pair[1].device_tokens)


def _residences(question: object, answers: Sequence[list[Residence]]) -> list[Residence]:
    best: dict[str, Residence] = {}
    for found in (each for answer in answers for each in answer):
        if found.owner not in best or found.device_tokens > best[found.owner].device_tokens:
            best[found.owner] = found
    return list(best.values())


def _leased(question: LeasedWanted, answers: Sequence[Leased]) -> Leased:
    sessions = _residences(question, [answer.sessions for answer in answers])
    sessions.sort(key=lambda one: min((lease.seconds_left for lease in one.leases), default=math.inf))
    numbers = {
        name: sum(getattr(answer, name) for answer in answers)
        for name in ("budget", "leased_blocks", "softly_leased_blocks", "hard", "soft")
    }
    return Leased(sessions=sessions[: question.limit], **numbers)


def _published(question: object, answers: Sequence[list[PublishedCache]]) -> list[PublishedCache]:
    """Each as where it has most, and the conversations of all."""
    best: dict[str, PublishedCache] = {}
    sessions: dict[str, int] = {}
    for found in (each for answer in answers for each in answer):
        sessions[found.label] = sessions.get(found.label, 0) + found.sessions
        if found.label not in best or found.device_tokens > best[found.label].device_tokens:
            best[found.label] = found
    return [msgspec.structs.replace(found, sessions=sessions[label]) for label, found in best.items()]


def _records(question: object, answers: Sequence[list[str]]) -> list[str]:
    return list({name: None for answer in answers for name in answer})


def _nothing(question: object, answers: object) -> None:
    return None


_MERGES: Mapping[type, Callable[[Any, Any], Any]] = {
    StatsWanted: lambda question, answers: stats_of(answers),
    LargestSessions: _largest,
    LeasedWanted: _leased,
    ResidencesWanted: _residences,
    PublishedWanted: _published,
    RecordsWanted: _records,
    RecordsGone: _nothing,
    Publishing: _nothing,
}
