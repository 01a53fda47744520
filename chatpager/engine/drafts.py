"""Prompts that somebody is still writing: computed in slices while nothing else is, into memory that nobody misses.

A draft never costs another turn more than the end of one slice: it is not begun while anything runs or waits, and takes
blocks that are free, dead or cold. What of it the next draft no longer contains is dead at once, as the head of a
session moves. A turn that finds blocks of a draft is told how many tokens that saved it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

from chatpager.engine.block_hash import BlockHash
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.sequence import Sequence, SequenceStatus

DRAFT = "\0draft"
"""The request that computes a slice; no other can have this id."""
SLICE_TOKENS = 256
"""A turn that begins meanwhile waits for no more than these."""
MAX_DRAFTS = 1024
ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)


class Drafts:
    """At most one draft an owner, the oldest first. ``slice_tokens``: the most in one step."""

    def __init__(self, cache: PrefixCache, slice_tokens: int) -> None:
        self._cache = cache
        self._size = cache.block_size
        self._slice = max(1, (min(slice_tokens, SLICE_TOKENS) - 1) // self._size)
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._kept: OrderedDict[str, None] = OrderedDict()
        """Owners with a head."""
        self._computed: OrderedDict[BlockHash, bool] = OrderedDict()
        """Blocks that drafts computed and no turn has counted yet."""
        self._running: tuple[str, Sequence] | None = None

    @property
    def wait(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, owner: str) -> bool:
        """Whether this head is a draft's."""
        return owner in self._kept

    def put(self, owner: str, whole: Sequence) -> None:
        """This is the owner's draft now."""
        self._waiting.pop(owner, None)
        self._waiting[owner] = whole
        if len(self._waiting) > MAX_DRAFTS:
            self._waiting.popitem(last=False)

    def drop(self, owner: str) -> None:
        """The owner has no draft any more; its blocks are worth what others make of them."""
        self._waiting.pop(owner, None)
        if owner in self._kept:
            del self._kept[owner]
            self._cache.heads.close(owner)

    def next_slice(self) -> Sequence | None:
        """What to compute of the oldest draft; those of which nothing is left, or for which there is no memory, are
        over."""
        while self._waiting:
            owner, whole = next(iter(self._waiting.items()))
            match = self._cache.match(whole)
            done, spare = len(match.blocks), self._cache.spare()  # what the draft has itself is not to spare
            match.rollback()
            blocks = min(self._cache.matchable_blocks(whole), done + self._slice)
            if blocks > done and blocks + 1 - done <= spare:
                return self._begin(owner, whole, blocks)
            if done:
                self._keep(owner, whole)
            del self._waiting[owner]
        return None

    def _begin(self, owner: str, whole: Sequence, blocks: int) -> Sequence:
        """One token more than full blocks: the last one's logits are thrown away, and its block with it."""
        tokens = whole.token_ids[: blocks * self._size + 1]
        part = Sequence(
            DRAFT,
            tokens,
            ONE_TOKEN,
            whole.hasher,
            max_length=len(tokens) + 1,
            arrival=whole.arrival,
            prefix=whole.prefix,
            speculative=True,
        )
        part.hashes = list(whole.full_hashes(blocks))
        self._running = owner, part
        return part

    def settle(self) -> None:
        """A step is over."""
        if self._running is None or self._running[1].status is not SequenceStatus.FINISHED:
            return
        (owner, part), self._running = self._running, None
        whole = self._waiting.get(owner)
        asked = part.token_ids[: part.num_prompt_tokens]
        match = self._cache.match(part)
        match.rollback()
        if len(match.blocks) * self._size < len(asked) - 1:
            self._waiting.pop(owner, None)  # it failed, or another block has its name; and would again
            return
        everybodys = part.prefix.blocks if part.prefix else 0  # what was published is nobody's draft
        for name in part.hashes[max(everybodys, part.cached_tokens // self._size) :]:
            self._computed[name] = True
        while len(self._computed) > self._cache.pool.usable:
            self._computed.popitem(last=False)
        if whole is not None and whole.token_ids[: len(asked)] == asked:
            self._keep(owner, part)

    def _keep(self, owner: str, seq: Sequence) -> None:
        match = self._cache.match(seq)
        try:
            self._cache.heads.move(owner, seq.hasher.tenant, match.blocks)
        finally:
            match.rollback()
        self._kept[owner] = None
        self._kept.move_to_end(owner)
        if len(self._kept) > MAX_DRAFTS:
            self.drop(next(iter(self._kept)))

    def claim(self, names: Seq[BlockHash], cached: int) -> int:
        """A turn begins with the blocks ``names``, of which ``cached`` were found on the device: tokens of those that a
        draft computed. Each is counted once."""
        drafted = [self._computed.pop(name, False) for name in names]
        return self._size * sum(drafted[:cached])
