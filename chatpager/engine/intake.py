"""From a request to a sequence: what is checked before anything is queued, and what a sequence is given."""

from __future__ import annotations

import secrets
import struct

import xxhash

from chatpager.config import EngineConfig
from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.constraint import Constraint
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.messages import AddRequest
from chatpager.engine.published import PublishedPrefixes
from chatpager.engine.runner import Runner
from chatpager.engine.sequence import Sequence
from chatpager.errors import CapacityExceeded, ContextLengthExceeded, InvalidRequest


class Intake:
    """``longest``: tokens that the pool holds for one sequence. ``max_num_seqs``: sequences in one step."""

    def __init__(
        self, config: EngineConfig, runner: Runner, *, longest: int, max_num_seqs: int, hash_bits: int
    ) -> None:
        self._block_size = config.block_size
        self._runner = runner
        self._longest = longest
        self._max_num_seqs = max_num_seqs
        self._hash_bits = hash_bits
        self._seed = config.seed if config.seed is not None else secrets.randbits(63)
        self._arrivals = self._seeded = 0
        public = BlockHasher([*runner.hash_domain(), ("public", "")], config.block_size, bits=hash_bits)
        self.published = PublishedPrefixes(public, runner.vocab_size)
        self.grammars: GrammarCompiler | None = None
        """Needs the tokenizer, which whoever has it brings."""

    def sequence(self, request: AddRequest, *, speculative: bool = False) -> Sequence:
        """The request's first sequence, with its siblings as ``forks``. One that is ``speculative`` is not sampled, and
        takes no seed from those that are.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityExceeded: see ``Engine.add``.
        """
        self._check(request)
        constraint = self._constraint(request)
        params, prompt = request.params, request.prompt_token_ids
        wanted = params.max_tokens if params.max_tokens is not None else self._longest
        self._arrivals += 1
        self._seeded += params.seed is None and not speculative
        seed = params.seed if params.seed is not None else self._next_seed()
        hasher, prefix = self.hasher(request.salt), self.published.longest(prompt)
        if prefix is not None:
            hasher = hasher.behind(self.published.hasher, prefix.names[-1], prefix.proofs[-1])
        first = Sequence(
            request.request_id,
            prompt,
            params,
            hasher,
            max_length=min(self._longest, len(prompt) + wanted),
            eos_token_ids=self._runner.eos_token_ids,
            priority=request.priority,
            weight=request.weight,
            arrival=self._arrivals,
            seed=seed,
            owner=request.owner,
            prefix=prefix,
            constraint=constraint,
            answered=request.answered,
        )
        first.forks = [first.fork(i, seed + i) for i in range(1, params.n)]
        for twin, owner in zip(first.forks, request.more_owners, strict=False):
            twin.owner = owner
        return first

    def hasher(self, salt: bytes) -> BlockHasher:
        """Of the model's blocks in the domain of ``salt``."""
        domain = [*self._runner.hash_domain(), ("salt", salt)]
        return BlockHasher(domain, self._block_size, bits=self._hash_bits)

    def _constraint(self, request: AddRequest) -> Constraint | None:
        grammar = request.params.grammar
        if grammar is None:
            return None
        if self.grammars is None:
            raise InvalidRequest("grammar: it needs the model's tokenizer, and there is none", param="grammar")
        return self.grammars.compile(grammar, request.salt).constraint()

    def _check(self, request: AddRequest) -> None:
        prompt, params, runner = request.prompt_token_ids, request.params, self._runner
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if min(prompt) < 0 or max(prompt) >= runner.vocab_size:
            raise InvalidRequest(f"a prompt token is outside 0..{runner.vocab_size - 1}", param="prompt")
        params.check_vocabulary(runner.vocab_size)
        if params.n > self._max_num_seqs:
            raise InvalidRequest(f"n is above max_num_seqs ({self._max_num_seqs})", param="n")
        if min(request.answered, default=0) < 0 or max(request.answered, default=0) >= runner.vocab_size:
            raise InvalidRequest(f"an answered token is outside 0..{runner.vocab_size - 1}", param="answered")
        if request.answered and params.n > 1:
            raise InvalidRequest("one answer can be gone on with, not several", param="n")
        wanted = max(len(request.answered) + 1, params.min_tokens)
        if len(prompt) + wanted > runner.max_model_len:
            raise ContextLengthExceeded(len(prompt), wanted, runner.max_model_len)
        if len(prompt) + wanted > self._longest:
            raise CapacityExceeded(
                f"the prompt and {wanted} more need room for {len(prompt) + wanted} tokens, "
                f"the KV pool has it for {self._longest}",
                param="prompt",
            )

    def _next_seed(self) -> int:
        return xxhash.xxh3_64_intdigest(struct.pack("<QQ", self._seed, self._seeded)) >> 1
