"""KV blocks on disk of conversations that are stored no more: their server was killed behind the deletion's commit, or
ran without the disk."""

from __future__ import annotations

from contextlib import suppress

import structlog

from chatpager.engine import published
from chatpager.engine.head_records import SEPARATOR, called
from chatpager.engine.questions import RecordsGone, RecordsWanted
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.heads import Heads, owner_of
from chatpager.store import Store

log = structlog.get_logger(__name__)


async def let_go(store: Store, engine: EngineHost, heads: Heads) -> None:
    """At the start, before any turn begins: ``heads`` come to know what stands on the disk, and what belongs neither to
    a stored conversation nor to a published prefix goes from there. The engine is asked first: what another server has
    it record meanwhile was stored before. Raises StoreError."""
    with suppress(EngineStopped):  # the next start looks again
        records = {name.rpartition(SEPARATOR)[2]: name for name in await engine.ask(RecordsWanted())}
        if not records:
            return
        heads.know(await store.alone(heads.entries))
        theirs = records.keys() - {called(published.owner_of(prefix.label)) for prefix in await store.prefixes.every()}
        gone = await store.unknown(theirs, lambda tenant, id: called(owner_of(tenant, id)))
        if gone:
            await engine.ask(RecordsGone([records[name] for name in gone]))
            log.info("cache.leftovers", conversations=len(gone), result="their KV blocks on disk are deleted")
