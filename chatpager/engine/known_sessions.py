"""What the engine knows of sessions between their requests: heads that move with turns, forks and rewinds, and where
their blocks are.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq

from chatpager.engine.block import Block
from chatpager.engine.drafts import Drafts
from chatpager.engine.heads import Head
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.published import OWNER, PublishedPrefixes
from chatpager.engine.sequence import Sequence
from chatpager.engine.stats import PublishedCache, SessionCache, published_cache, session_cache, top_sessions


class KnownSessions:
    """``drafts`` are owners of what is still being written: they have heads, and are nobody's conversation."""

    def __init__(self, cache: PrefixCache, published: PublishedPrefixes, drafts: Drafts, *, max_model_len: int) -> None:
        self._cache = cache
        self._pool = cache.pool
        self._leases = cache.leases
        self._tiers = cache.tiers
        self._published = published
        self._drafts = drafts
        self._block_size = cache.block_size
        self._max_model_len = max_model_len
        self._turns: dict[str, list[Sequence]] = {}
        """By session its turns that run and may move its head, in the order in which they began: another server may
        have taken the session over, or deleted it, while the turn of one that is gone still runs. Such a turn does not
        take the head back."""

    # -- what conversations do between their turns -------------------------------------------------------------------

    def fork(self, owner: str, new_owner: str, tokens: int | None = None) -> None:
        """A session begins with the first ``tokens`` of another (None: with all), whose blocks are now its own too."""
        most = self._max_model_len if tokens is None else max(0, tokens)
        proofs = self._cache.heads.fork(owner, new_owner, most)
        if self._tiers is not None:
            self._tiers.fork(new_owner, proofs or self._tiers.recorded(owner)[: most // self._block_size])

    def rewind(self, owner: str, tokens: int) -> None:
        """A session's conversation has only its first ``tokens`` any more: the blocks behind them are dead at once,
        unless others have them."""
        left = self._cache.heads.rewind(owner, max(0, tokens)) or ()
        if self._tiers is not None:
            recorded = self._tiers.recorded(owner)[: max(0, tokens) // self._block_size]
            # After a restart the device may know less of it than the record, and a record may still be on its way.
            self._tiers.rewind(owner, recorded if recorded[: len(left)] == left else left)

    def close(self, owner: str) -> None:
        """The conversation was deleted: its blocks are nobody's, and go from the disk unless others have them."""
        self._turns.pop(owner, None)
        self._cache.heads.close(owner)
        if self._tiers is not None:
            self._tiers.drop(owner)

    def close_all(self, tenant: str) -> None:
        """All conversations of a tenant were deleted, also those that nobody here has heard of since the start."""
        for owner in [owner for owner in self._leases.heads if owner.partition("\0")[0] == tenant]:
            self._cache.heads.close(owner)
        self._turns = {owner: turns for owner, turns in self._turns.items() if owner.partition("\0")[0] != tenant}
        if self._tiers is not None:
            self._tiers.drop_all(tenant)

    def records(self) -> set[str]:
        """The names under which the disk has what conversations consist of."""
        return self._tiers.records() if self._tiers is not None else set()

    def close_records(self, names: Collection[str]) -> None:
        """The conversations with these were deleted while nobody could say so."""
        if self._tiers is not None:
            self._tiers.drop_records(names)

    def withdraw(self, label: str) -> bool:
        """A published prefix is shared no more, and its blocks are worth what sessions make of them. False: there is
        none."""
        prefix = self._published.withdraw(label)
        if prefix is not None:
            self.close(prefix.owner)
        return prefix is not None

    # -- a turn begins and ends ---------------------------------------------------------------------------------------

    def begin(self, seqs: Seq[Sequence]) -> None:
        """Of one request."""
        for seq in seqs:
            if seq.owner:
                self._turns.setdefault(seq.owner, []).append(seq)

    def end(self, seq: Sequence) -> None:
        turns = self._turns.get(seq.owner, [])
        if seq in turns:
            turns.remove(seq)
            if not turns:
                del self._turns[seq.owner]

    def keep(self, seq: Sequence) -> None:
        """What a running sequence's turn leaves behind: its blocks are found again, and its session's head moves."""
        chain = self._cache.chain(seq)
        if seq.prefix:
            self._keep_published(chain)
        tail = None if seq.speculative else self._cache.keep_tail(seq, chain)
        whole = seq.committed >= seq.num_prompt_tokens
        turns = self._turns.get(seq.owner, [])
        if seq in turns and (whole or len(chain) >= self._known_blocks(seq.owner)):
            self._cache.heads.move(seq.owner, seq.hasher.tenant, [*chain, tail] if tail else chain)
            self._cache.save(seq.owner, chain)
            del turns[: turns.index(seq)]  # they began before it

    def _keep_published(self, chain: list[Block]) -> None:
        """A prompt brought these blocks: what of them is published has a head of its own, until it is withdrawn."""
        for prefix in self._published:
            blocks = chain[: prefix.blocks]
            head = self._leases.heads.get(prefix.owner)
            is_whole = len(blocks) == prefix.blocks and blocks[-1].proof == prefix.proofs[-1]
            if is_whole and (head is None or head.resident() < prefix.blocks):
                self._cache.heads.move(prefix.owner, self._published.hasher.tenant, blocks)
                self._cache.save(prefix.owner, blocks)

    def _known_blocks(self, owner: str) -> int:
        """Length of a session's head: a turn that ended on its way through the prompt does not take it back."""
        head = self._leases.heads.get(owner)
        if head is not None:
            return len(head.proofs)
        return len(self._tiers.recorded(owner)) if self._tiers is not None else 0

    # -- questions ----------------------------------------------------------------------------------------------------

    def cache_of(self, owner: str, now: float) -> SessionCache | None:
        """What of a session's conversation is in the cache; None: nothing is known of it."""
        self._leases.tick(now)
        head = self._leases.heads.get(owner)
        if head is None and self._tiers is not None and (proofs := self._tiers.recorded(owner)):
            head = Head(b"", proofs=list(proofs))
        return session_cache(head, self._block_size, now, self._tiers) if head else None

    def top(self, prefix: str, limit: int, now: float) -> list[tuple[str, SessionCache]]:
        """The sessions whose names begin with ``prefix`` and that have most blocks on the device, most first."""
        self._leases.tick(now)
        heads = self._leases.heads.items()
        sessions = {name: head for name, head in heads if name.startswith(prefix) and self._is_session(name)}
        return top_sessions(sessions, limit, self._block_size, now, self._tiers)

    def published(self, now: float) -> list[PublishedCache]:
        """Of every published prefix, where its blocks are and how many conversations begin with it."""
        self._leases.tick(now)
        heads = {owner: head for owner, head in self._leases.heads.items() if owner not in self._drafts}
        return [published_cache(prefix, self._pool, heads, now, self._tiers) for prefix in self._published]

    def _is_session(self, owner: str) -> bool:
        """Not a draft, and not a published prefix."""
        return owner not in self._drafts and not owner.startswith(OWNER)
