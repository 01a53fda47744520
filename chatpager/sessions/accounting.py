"""The receipt of a turn that has ended, from what the engine and the store said of it."""

from __future__ import annotations

import msgspec

from chatpager.engine.messages import Usage
from chatpager.sessions.heads import shown_to
from chatpager.sessions.receipt import Eviction, KeyDomain, Receipt, receipt
from chatpager.sessions.turn import LiveTurn


def account(turn: LiveTurn, block_size: int, caching: bool, domain: KeyDomain) -> Receipt | None:
    """What a turn found in the cache and why no more. None of a turn that the engine never admitted."""
    if turn.usage is None or not turn.usage.admitted:
        return None
    # What was published or withdrawn since then gives its blocks other names: nothing of it could be found.
    was_renamed = turn.past is not None and turn.past.published != turn.usage.published
    found = receipt(
        turn.prompt,
        turn.usage.cached_tokens,
        turn.committed,
        None if was_renamed else turn.previous,
        block_size=block_size,
        caching=caching,
        template=turn.template,
        lost=_lost(turn, turn.usage),
        host_tokens=turn.usage.host_tokens,
        disk_tokens=turn.usage.disk_tokens,
        draft_tokens=turn.usage.draft_tokens,
        published_tokens=turn.usage.published_tokens,
        published=turn.usage.published,
        computed_here=turn.past is not None or turn.previous is None,
        domain=domain,
        earlier=turn.previous_domain,
    )
    return msgspec.structs.replace(found, broken=turn.broken)


def _lost(turn: LiveTurn, usage: Usage) -> Eviction | None:
    if usage.lost is None:
        return None
    lost = usage.lost
    by = shown_to(turn.request.tenant, lost.by)
    ago = round(lost.seconds_ago, 3)
    return Eviction(ago, lost.eviction_class, by, lost.lease_expired, lost.lease_revoked)
