"""What an operator sees of blocks, leases and conversations' places, asked of the engine a little at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from chatpager.engine.block_map import BlockFacts, block_facts, take_changes
from chatpager.engine.engine import Engine
from chatpager.engine.residence import Leased, Residence, leased_sessions, residences
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.keeping import Keeper

ASKED_TOGETHER = 64
"""Conversations of one question: each is a search in its chain."""


class Changes(NamedTuple):
    """``blocks`` are (block, code, parent) of a pool of ``total`` blocks, which ``epoch`` names: another engine has
    another one. ``more``: not all were taken."""

    epoch: str
    total: int
    blocks: list[tuple[int, int, int]]
    more: bool


class Inspector:
    """Every method raises EngineStopped."""

    def __init__(self, engine: EngineThread, keeper: Keeper, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._keeper = keeper
        self._clock = clock

    async def changes(self, most: int) -> Changes:
        """Blocks that may look otherwise than when somebody last asked; whoever asks is told of each once."""

        def take(engine: Engine) -> Changes:
            blocks = take_changes(engine.pool, most)
            return Changes(engine.pool.events.epoch, engine.pool.usable, blocks, len(blocks) == most)

        return await self._engine.ask(take)

    async def block(self, block_id: int) -> BlockFacts | None:
        """None: there is no such block."""
        return await self._engine.ask(lambda engine: block_facts(engine.pool, engine.leases, block_id, self._clock()))

    async def leases(self, limit: int) -> Leased:
        def look(engine: Engine) -> Leased:
            engine.leases.tick(self._clock())
            return leased_sessions(engine.leases, engine.pool, limit, engine.config.block_size)

        found = await self._engine.ask(look)
        told = [self._keeper.with_pin(session.owner, session) for session in found.sessions]
        return msgspec.structs.replace(found, sessions=told)

    async def residences(self, owners: Sequence[str]) -> dict[str, Residence]:
        """By owner, of those of whom the engine knows."""
        found: dict[str, Residence] = {}
        for start in range(0, len(owners), ASKED_TOGETHER):
            some = owners[start : start + ASKED_TOGETHER]
            told = await self._engine.ask(partial(self._look, some))
            found |= {each.owner: self._keeper.with_pin(each.owner, each) for each in told}
        return found

    def _look(self, owners: Sequence[str], engine: Engine) -> list[Residence]:
        engine.leases.tick(self._clock())
        return residences(engine.leases, owners, engine.config.block_size)
