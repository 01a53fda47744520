"""One sequence of tokens and how much of it is in the KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from chatpager.engine.block_hash import BlockHash, BlockHasher, BlockProof
from chatpager.engine.block_table import BlockTable
from chatpager.engine.messages import FinishReason
from chatpager.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from chatpager.engine.block import Block
    from chatpager.engine.constraint import Constraint
    from chatpager.engine.ghost_index import Eviction
    from chatpager.engine.published import PublishedPrefix
    from chatpager.engine.reading import Reading, Source
    from chatpager.engine.token_history import TokenHistory

__all__ = ["FinishReason", "SamplingParams", "Sequence", "SequenceStatus", "set_apart"]


class SequenceStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens, their block table, and the line between what is computed and what is not.

    ``committed`` tokens have their keys and values written; the last sampled token is not among them. A step computes
    ``token_ids[committed : committed + n]``; when that reaches the end, the next token is sampled. The table covers
    ``block_size * len(block_table)`` tokens, never fewer than are committed.
    """

    __slots__ = (
        "__weakref__",
        "_block_table",
        "age",
        "arrival",
        "cached_tokens",
        "claims",
        "committed",
        "constraint",
        "eos_token_ids",
        "evicted",
        "first_admitted",
        "forks",
        "hasher",
        "hashes",
        "history",
        "index",
        "is_long",
        "max_length",
        "note",
        "num_prompt_tokens",
        "owner",
        "params",
        "preemptions",
        "prefix",
        "priority",
        "published",
        "reach",
        "reached",
        "reading",
        "request_id",
        "restored_tokens",
        "round",
        "sampled_at",
        "seed",
        "speculative",
        "status",
        "tail",
        "token_ids",
        "unread",
        "weight",
        "written",
    )

    speculative: bool
    """Nobody has asked yet: it counts in no figure."""
    owner: str
    """The session whose turn this is."""
    prefix: PublishedPrefix | None
    """The published prefix that it begins with, whose blocks ``hasher`` names for everybody."""
    unread: bool
    """Nobody reads it at the moment."""
    weight: int
    """Of its tenant's requests so many are of one round."""
    round: int | None
    """Of its tenant's requests it is the one of this round (``Rounds``); None: it has not waited."""
    reached: int
    """The most that ``committed`` ever was: preemption takes the blocks away, not the fact."""
    published: int
    """Leading blocks whose content stands in the prefix cache, under this table's block or an equal one."""
    written: int
    """First block of the table this sequence computed itself; the ones before came from the prefix cache."""
    claims: range
    """Blocks of the prompt that others wait for instead of computing them too."""
    hashes: list[BlockHash]
    history: TokenHistory | None
    """Made by the sampler for a sequence with penalties."""
    constraint: Constraint | None
    """Of a sequence with a grammar."""
    cached_tokens: int
    """Prompt tokens found in the cache when first admitted; later admissions do not count."""
    restored_tokens: Counter[Source]
    """Those of them that were not on the device."""
    reach: int | None
    """Leading blocks that the tiers had together when somebody first asked."""
    reading: Reading | None
    """What it has had of the lower tiers since it began to wait."""
    evicted: Eviction | None
    """How the first block that was not found then had been lost."""
    tail: tuple[Block, int] | None
    """The block, and its ``born``, of which it copied the beginning."""
    is_long: bool
    """The lane by which it was admitted first."""
    sampled_at: float | None
    """When its last token came."""
    note: object
    """What the runner keeps of it from step to step."""
    forks: list[Sequence]
    """Siblings of the same request that start from this one's prompt once it is computed (n > 1)."""

    def __init__(
        self,
        request_id: str,
        token_ids: list[int],
        params: SamplingParams,
        hasher: BlockHasher,
        *,
        max_length: int,
        eos_token_ids: frozenset[int] = frozenset(),
        priority: int = 0,
        arrival: int = 0,
        seed: int = 0,
        index: int = 0,
        owner: str = "",
        prefix: PublishedPrefix | None = None,
        speculative: bool = False,
        constraint: Constraint | None = None,
        weight: int = 1,
        answered: Iterable[int] = (),
    ) -> None:
        self.request_id, self.index, self.owner, self.speculative = request_id, index, owner, speculative
        self.token_ids, self.num_prompt_tokens = [*token_ids, *answered], len(token_ids)
        self.params, self.constraint, self.seed = params, constraint, seed
        self.max_length, self.eos_token_ids = max_length, eos_token_ids
        self.hasher, self.prefix = hasher, prefix
        self.priority, self.weight, self.arrival = priority, weight, arrival
        self.status = SequenceStatus.WAITING
        self._block_table = BlockTable()
        self.hashes, self.forks = [], []
        self.committed = self.reached = self.published = self.written = 0
        self.claims = range(0)
        self.age = self.preemptions = self.cached_tokens = 0
        self.restored_tokens = Counter()
        self.is_long = self.first_admitted = self.unread = False
        self.round = self.reach = self.reading = self.evicted = self.tail = None
        self.history = self.sampled_at = self.note = None

    @property
    def block_table(self) -> BlockTable:
        return self._block_table

    @block_table.setter
    def block_table(self, ids: Iterable[int]) -> None:
        self._block_table = BlockTable(ids)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be written."""
        return len(self.token_ids) - self.committed

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def full_hashes(self, count: int) -> list[BlockHash]:
        """Hashes of the first ``count`` blocks, all of them full; each is computed once."""
        size = self.hasher.block_size
        assert count * size <= len(self.token_ids), (count, size, len(self.token_ids))
        while len(self.hashes) < count:
            i = len(self.hashes)
            parent = self.hashes[-1] if i else self.hasher.root
            self.hashes.append(self.hasher.chain(parent, self.token_ids[i * size : (i + 1) * size]))
        return self.hashes[:count]

    def domain(self, i: int) -> BlockProof:
        """Whose block ``i`` is: everybody's, of what was published, or its tenant's."""
        return self.hasher.proof if self.prefix and i < self.prefix.blocks else self.hasher.domain

    def block_tokens(self, i: int) -> tuple[int, ...]:
        size = self.hasher.block_size
        return tuple(self.token_ids[i * size : (i + 1) * size])

    def finish_reason(self) -> FinishReason | None:
        """Why the sequence ends with its last token, if it does."""
        last, params = self.token_ids[-1], self.params
        if last in params.stop_token_ids or last in self.eos_token_ids:
            enough = self.num_output_tokens >= params.min_tokens
            if enough and last in params.stop_token_ids:
                return FinishReason.STOP
            # Of a grammar it is the end: nothing else is allowed there.
            if last in self.eos_token_ids and (self.constraint or (enough and not params.ignore_eos)):
                return FinishReason.STOP
        return FinishReason.LENGTH if len(self.token_ids) >= self.max_length else None

    def fork(self, index: int, seed: int) -> Sequence:
        """A sibling with the same tokens; it gets no blocks here (the scheduler shares them)."""
        twin = Sequence(
            self.request_id,
            list(self.token_ids),
            self.params,
            self.hasher,
            max_length=self.max_length,
            eos_token_ids=self.eos_token_ids,
            priority=self.priority,
            arrival=self.arrival,
            seed=seed,
            index=index,
            prefix=self.prefix,
            constraint=self.constraint.again() if self.constraint else None,
        )
        twin.num_prompt_tokens = self.num_prompt_tokens
        twin.hashes = list(self.hashes)
        return twin


def set_apart(siblings: list[Sequence], index: int) -> None:
    """Of the sequences of one request, by index, make ``siblings[index]`` one that no other depends on.

    While their prompt is being computed siblings differ in index, seed and owner only, and one of them computes for
    all: it goes on as another, and that one is left behind in its place.
    """
    leader = next((seq for seq in siblings if seq.forks), None)
    if leader is None:
        return
    if leader.index == index:
        idle = leader.forks[-1]
        leader.index, idle.index = idle.index, leader.index
        leader.seed, idle.seed = idle.seed, leader.seed
        leader.owner, idle.owner = idle.owner, leader.owner
        siblings[leader.index], siblings[idle.index] = leader, idle
    leader.forks.remove(siblings[index])
