"""What an operator sees of blocks, leases and conversations' places, asked of the engine a little at a time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chatpager.engine.block_map import BlockFacts
from chatpager.engine.questions import BlockWanted, Changes, ChangesTaken, LeasedWanted, ResidencesWanted
from chatpager.engine.residence import Leased, Residence
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.keeping import Keeper

ASKED_TOGETHER = 64
"""Conversations of one question: each is a search in its chain."""


class Inspector:
    """Every method raises EngineStopped."""

    def __init__(self, engine: EngineHost, keeper: Keeper) -> None:
        self._engine = engine
        self._keeper = keeper

    async def changes(self, most: int) -> Changes:
        """Blocks that may look otherwise than when this server last asked, each once."""
        return await self._engine.ask(ChangesTaken(most))

    async def block(self, block_id: int) -> BlockFacts | None:
        """None: there is no such block."""
        return await self._engine.ask(BlockWanted(block_id))

    async def leases(self, limit: int) -> Leased:
        found = await self._engine.ask(LeasedWanted(limit))
        told = [self._keeper.with_pin(session.owner, session) for session in found.sessions]
        return msgspec.structs.replace(found, sessions=told)

    async def residences(self, owners: Sequence[str]) -> dict[str, Residence]:
        """By owner, of those of whom the engine knows."""
        found: dict[str, Residence] = {}
        for start in range(0, len(owners), ASKED_TOGETHER):
            some = owners[start : start + ASKED_TOGETHER]
            told = await self._engine.ask(ResidencesWanted(list(some)))
            found |= {each.owner: self._keeper.with_pin(each.owner, each) for each in told}
        return found
