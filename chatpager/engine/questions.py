"""What is asked of the engine between two of its steps: plain structs that msgspec can carry between processes, each of
which knows what looks for its answer. The type that ``answer`` is annotated with is what comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from chatpager.engine.block_map import BlockFacts, block_facts, take_changes
from chatpager.engine.cache_events import CacheEvent
from chatpager.engine.heads import LeaseEvent, Strength
from chatpager.engine.messages import AddRequest, LeaseRequest, PublishPrefix
from chatpager.engine.residence import Leased, Residence, leased_sessions, residences
from chatpager.engine.stats import EngineStats, PublishedCache, SessionCache

if TYPE_CHECKING:
    from chatpager.engine.engine import Engine

T_co = TypeVar("T_co", covariant=True)


class Question(Protocol[T_co]):
    """``now`` is the engine's time, in seconds. What ``answer`` raises is its asker's alone."""

    def answer(self, engine: Engine, now: float) -> T_co: ...


class StatsWanted(msgspec.Struct, frozen=True, tag="stats"):
    """Figures as of the end of a step."""

    def answer(self, engine: Engine, now: float) -> EngineStats:
        return engine.stats()


class LeaseWanted(msgspec.Struct, frozen=True, tag="lease_wanted"):
    """A lease, and what was granted; None: nothing of the session is on the device. A soft one that replaces what was
    asked for before ends a hard one too, once it is granted."""

    request: LeaseRequest

    def answer(self, engine: Engine, now: float) -> LeaseEvent | None:
        event = engine.lease(self.request, now)
        softly = self.request.strength is Strength.SOFT
        if softly and self.request.replaces and event is not None and event.tokens:
            engine.leases.release(self.request.owner, Strength.HARD)
        return event


class CacheOf(msgspec.Struct, frozen=True, tag="cache_of"):
    """What of a session is in the cache; None: nothing is known of it."""

    owner: str

    def answer(self, engine: Engine, now: float) -> SessionCache | None:
        return engine.sessions.cache_of(self.owner, now)


class LargestSessions(msgspec.Struct, frozen=True, tag="largest"):
    """The owners, whose names begin with ``prefix``, that have most on the device, most first."""

    prefix: str
    limit: int

    def answer(self, engine: Engine, now: float) -> list[tuple[str, SessionCache]]:
        return engine.sessions.top(self.prefix, self.limit, now)


class Publishing(msgspec.Struct, frozen=True, tag="publishing"):
    """Publish a prefix, and hear of it. Raises what ``PublishedPrefixes.publish`` does."""

    command: PublishPrefix

    def answer(self, engine: Engine, now: float) -> None:
        engine.publish(self.command)


class PublishedWanted(msgspec.Struct, frozen=True, tag="published"):
    def answer(self, engine: Engine, now: float) -> list[PublishedCache]:
        return engine.sessions.published(now)


class Prefetch(msgspec.Struct, frozen=True, tag="prefetch"):
    """Bring back what the lower tiers have of a prompt; tokens brought. Raises what ``Engine.prefetch`` does."""

    request: AddRequest

    def answer(self, engine: Engine, now: float) -> int:
        return engine.prefetch(self.request, now)


class Changes(NamedTuple):
    """``blocks`` are (block, code, parent) of a pool of ``total`` blocks, which ``epoch`` names: another engine has
    another one. ``more``: not all were taken."""

    epoch: str
    total: int
    blocks: list[tuple[int, int, int]]
    more: bool


class ChangesTaken(msgspec.Struct, frozen=True, tag="changes"):
    """At most so many blocks that may look otherwise than when this one asked last; each is told once. Who asks for the
    first time is told of all."""

    most: int
    by: str = ""

    def answer(self, engine: Engine, now: float) -> Changes:
        blocks = take_changes(engine.pool, self.most, self.by)
        return Changes(engine.pool.events.epoch, engine.pool.usable, blocks, len(blocks) == self.most)


class BlockWanted(msgspec.Struct, frozen=True, tag="block"):
    """None: there is no such block."""

    block_id: int

    def answer(self, engine: Engine, now: float) -> BlockFacts | None:
        return block_facts(engine.pool, engine.leases, self.block_id, now)


class LeasedWanted(msgspec.Struct, frozen=True, tag="leased"):
    limit: int

    def answer(self, engine: Engine, now: float) -> Leased:
        engine.leases.tick(now)
        return leased_sessions(engine.leases, engine.pool, self.limit, engine.config.block_size)


class ResidencesWanted(msgspec.Struct, frozen=True, tag="residences"):
    """Of those owners of whom the engine knows."""

    owners: list[str]

    def answer(self, engine: Engine, now: float) -> list[Residence]:
        engine.leases.tick(now)
        return residences(engine.leases, self.owners, engine.config.block_size)


class Happenings(NamedTuple):
    """``missed`` events are lost before the first of these; ``last`` is the number of the latest there is."""

    events: list[CacheEvent]
    missed: int
    last: int
    epoch: str


class EventsWanted(msgspec.Struct, frozen=True, tag="events"):
    """At most ``limit`` events after number ``after``; None: what there is now."""

    after: int | None
    limit: int

    def answer(self, engine: Engine, now: float) -> Happenings:
        events, missed = engine.cache_events(self.after, self.limit)
        return Happenings(events, missed, engine.pool.events.last, engine.pool.events.epoch)


class RecordsWanted(msgspec.Struct, frozen=True, tag="records"):
    """The names of the records of conversations that the disk has (``head_records``)."""

    def answer(self, engine: Engine, now: float) -> list[str]:
        return list(engine.sessions.records())


class RecordsGone(msgspec.Struct, frozen=True, tag="records_gone"):
    """The conversations with these records were deleted: their blocks go from the disk."""

    names: list[str]

    def answer(self, engine: Engine, now: float) -> None:
        engine.sessions.close_records(self.names)


AnyQuestion = (
    StatsWanted
    | LeaseWanted
    | CacheOf
    | LargestSessions
    | Publishing
    | PublishedWanted
    | Prefetch
    | ChangesTaken
    | BlockWanted
    | LeasedWanted
    | ResidencesWanted
    | EventsWanted
    | RecordsWanted
    | RecordsGone
)
