"""Where conversations are among replicas: what rows of the store are to say where there are several front ends, for the
one that there is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from chatpager.engine.messages import AddRequest
from chatpager.engine.published import OWNER
from chatpager.engine.published import owner_of as head_of
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.heads import names_of
from chatpager.sessions.placement import (
    Candidates,
    Heat,
    Owner,
    Policy,
    Replica,
    heated,
    place,
    session_key,
)

T = TypeVar("T")

MOST_KNOWN = 1 << 17
"""Conversations; of those beyond, the function's first choice counts."""


class Homes:
    """``hosts`` are the replicas, by name. ``clock`` is in seconds and never goes back."""

    def __init__(self, hosts: Mapping[str, EngineHost], policy: Policy, clock: Callable[[], float]) -> None:
        self._hosts, self._policy, self._clock = hosts, policy, clock
        self.draining: set[str] = set()
        self._candidates: Candidates | None = None
        """None: they have to be looked for."""
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._roots: OrderedDict[str, str] = OrderedDict()
        """Of conversations that began as forks: those whose order of replicas they have, as their prefix is there."""
        self._heats: dict[str, Heat] = {}
        self._published: dict[str, tuple[int, ...]] = {}

    def changed(self) -> None:
        """Something became of a replica."""
        self._candidates = None

    def drain(self, name: str, drains: bool) -> None:
        (self.draining.add if drains else self.draining.discard)(name)
        self.changed()

    @property
    def candidates(self) -> Candidates:
        """Those that are drained only where there is no other."""
        if self._candidates is None:
            rows = [
                Replica(name, epoch=host.restarts, draining=name in self.draining)
                for name, host in self._hosts.items()
                if host.alive
            ]
            if all(row.draining for row in rows):
                rows = [msgspec.structs.replace(row, draining=False) for row in rows]
            self._candidates = Candidates(rows, 0.0)
        return self._candidates

    def place(self, command: AddRequest, work: Mapping[str, float]) -> str | None:
        """The replica for a turn, where its conversation then is; None: no one can be asked. ``work`` is queued at
        each."""
        candidates, now = self.candidates, self._clock()
        if not len(candidates):
            return None
        owner, group = command.owner, self._group(command.prompt_token_ids)
        heat = self._heats.get(group, Heat()) if group is not None else Heat()
        placement = place(
            candidates,
            self._roots.get(owner, owner or command.request_id),
            loads=candidates.loads(work),
            now=now,
            group=group,
            copies=heat.copies,
            owner=self._owners.get(owner),
            policy=self._policy,
        )
        if group is not None:
            self._heats[group] = heated(heat, placement, now, self._policy)
        if owner:
            _put(self._owners, owner, placement.owner)
        return placement.owner.replica

    def of(self, owner: str) -> str | None:
        """Where a conversation is, or would be placed if nothing were queued; None: no replica is there."""
        candidates = self.candidates
        if not len(candidates):
            return None
        if owner.startswith(OWNER):
            return candidates.ids[int(candidates.order_of_group(owner.removeprefix(OWNER))[0])]
        known = self._owners.get(owner)
        if known is not None and known.replica in candidates.ids:
            return known.replica
        return candidates.ids[candidates.first(session_key(self._roots.get(owner, owner)))]

    def forked(self, owner: str, new_owner: str) -> None:
        """A conversation begins with blocks of another."""
        if known := self._owners.get(owner):
            _put(self._owners, new_owner, known)
        _put(self._roots, new_owner, self._roots.get(owner, owner))

    def closed(self, owner: str) -> None:
        self._owners.pop(owner, None)
        self._roots.pop(owner, None)

    def closed_all(self, tenant: str) -> None:
        for owner in [owner for owner in self._owners.keys() | self._roots.keys() if names_of(owner)[0] == tenant]:
            self.closed(owner)

    def published(self, label: str, token_ids: Sequence[int]) -> None:
        self._published[label] = tuple(token_ids)

    def withdrawn(self, label: str) -> None:
        self._published.pop(label, None)
        self._heats.pop(label, None)
        self.closed(head_of(label))

    def _group(self, prompt: Sequence[int]) -> str | None:
        """The label of the longest published prefix that the prompt begins with."""
        found = [
            (len(tokens), label)
            for label, tokens in self._published.items()
            if len(prompt) > len(tokens) and tuple(prompt[: len(tokens)]) == tokens
        ]
        return max(found)[1] if found else None


def _put(kept: OrderedDict[str, T], name: str, value: T) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > MOST_KNOWN:
        kept.popitem(last=False)
