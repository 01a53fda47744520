"""A model that costs nothing, for measuring and breaking all that is around one: ``--engine fake``.

What it says is a function of the prompt, the seed that the request brought and the place in the answer: words of the
model folder's own vocabulary, so that the real detokenizer and the real wire have something to do. Its KV cache holds
the token ids themselves. A sequence that begins on blocks which it did not compute compares them with its own tokens
first, so a wrong block of the cache, a tier or a copy fails its request instead of going unseen.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from tokenizers import Tokenizer as Backend

from chatpager.config import EngineConfig
from chatpager.engine import loader
from chatpager.engine.block_hash import Field
from chatpager.engine.host_tier import Content
from chatpager.engine.plan import Plan, Row
from chatpager.engine.sampler import Sampled, sample
from chatpager.engine.sequence import Sequence as TokenSequence
from chatpager.errors import ConfigError

NUM_BLOCKS = 65_536
"""Of the pool where ``num_kv_blocks`` says nothing."""
LEAST_TOKENS, MORE_TOKENS = 16, 112
"""An answer whose length nobody bounds has so many tokens, and up to so many more."""
_WORD = re.compile(r" ?[A-Za-z]+")
_TWO = struct.Struct("<QQ")
_SURE = 50.0
"""Logit of the next token, where a request has rules for the sampler; all others have 0."""


class WrongBlock(Exception):
    """A block that was found does not hold the tokens that it was found by."""


class FakeRunner:
    """Says words of the tokenizer in ``config.model``, whose weights are not read.

    Every step is computed on a beat of ``config.fake_tokens_per_second``, or at once where that is 0. ``clock`` and
    ``sleep`` are in seconds.

    Raises:
        ModelLoadError, UnsupportedModel: see ``loader.check``.
        ConfigError: the vocabulary has no words, the pool does not hold one sequence of ``max_model_len``, or it is to
            be split.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        path = Path(config.model)
        checked = loader.check(path)
        if config.tensor_parallel_size > 1:
            problem = "a fake has no model to split; leave it 1"
            raise ConfigError("tensor_parallel_size", problem, value=config.tensor_parallel_size)
        self.vocab_size = checked.shape.vocab_size
        self.eos_token_ids = checked.eos_token_ids
        self.block_size = config.block_size
        self.num_blocks = config.num_kv_blocks or NUM_BLOCKS
        self.max_model_len = config.max_model_len or checked.shape.max_positions
        if (self.num_blocks - 2) * self.block_size < self.max_model_len:
            raise ConfigError("num_kv_blocks", f"{self.max_model_len} tokens do not fit", value=self.num_blocks)
        self._words = _words(Backend.from_file(str(path / "tokenizer.json")))
        if not self._words:
            raise ConfigError("engine", "fake has nothing to say: the vocabulary has no words", value=config.engine)
        self._memory = np.zeros((self.num_blocks, self.block_size), np.int32)
        self._beat = 1 / config.fake_tokens_per_second if config.fake_tokens_per_second else 0.0
        self._due = 0.0
        self._clock, self._sleep = clock, sleep

    lost = None

    def hash_domain(self) -> Iterable[tuple[str, Field]]:
        return (("model", "fake"), ("kv_layout", "ids"))

    # -- the KV cache's content ---------------------------------------------------------------------------------------

    @property
    def block_bytes(self) -> int:
        return self._memory.itemsize * self.block_size

    def read_blocks(self, ids: Iterable[int]) -> list[bytes]:
        return [self._memory[i].tobytes() for i in ids]

    def write_blocks(self, ids: Iterable[int], contents: Iterable[Content]) -> None:
        for i, content in zip(ids, contents, strict=True):
            self._memory[i] = np.frombuffer(bytes(content), np.int32)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, plan: Plan) -> list[Sampled]:
        self._wait_for_the_beat()  # first, as a device computes while nobody holds the interpreter
        for row in plan.rows:
            if row.copy:
                shared, own = row.copy
                self._memory[own] = self._memory[shared]
        for row in plan.rows:
            self._write(row)
        return [self._sample(seq) for row in plan.rows for seq in row.samples]

    def _write(self, row: Row) -> None:
        seq, size, memory = row.seq, self.block_size, self._memory
        start, end = seq.committed, seq.committed + row.count
        if row.count == 1 and start >= seq.num_prompt_tokens:  # most rows by far
            memory[seq.block_table[start // size], start % size] = seq.token_ids[start]
            return
        if start:
            self._compare(seq, start)
        for first in range(start - start % size, end, size):
            low, high = max(first, start), min(first + size, end)
            memory[seq.block_table[first // size], low - first : high - first] = seq.token_ids[low:high]

    def _compare(self, seq: TokenSequence, count: int) -> None:
        """Whether the first ``count`` slots are those of these tokens."""
        table = [seq.block_table[i] for i in range(-(-count // self.block_size))]
        if self._memory[table].ravel()[:count].tolist() != seq.token_ids[:count]:
            raise WrongBlock

    def _sample(self, seq: TokenSequence) -> Sampled:
        asked = seq.note
        if not isinstance(asked, _Asked):
            asked = seq.note = _asked(seq)
        token = self._next(seq, asked.digest)
        if not asked.ruled:
            return Sampled(token)
        logits = torch.zeros(1, self.vocab_size)
        logits[0, token] = _SURE
        return sample(logits, [(0, seq)])[0]

    def _next(self, seq: TokenSequence, digest: int) -> int:
        place, params = seq.num_output_tokens, seq.params
        ends = params.max_tokens is None and not params.ignore_eos and self.eos_token_ids
        if ends and place >= max(params.min_tokens, LEAST_TOKENS + digest % MORE_TOKENS):
            return min(self.eos_token_ids)
        return self._words[xxhash.xxh3_64_intdigest(_TWO.pack(digest, place)) % len(self._words)]

    def _wait_for_the_beat(self) -> None:
        if not self._beat:
            return
        now = self._clock()
        if now < self._due:
            self._sleep(self._due - now)
            self._due += self._beat
        else:  # idle until now, or too slow: no step is made up for
            self._due = now + self._beat


class _Asked(NamedTuple):
    """Of a sequence that is being answered. ``ruled``: by what the sampler looks at."""

    digest: int
    ruled: bool


def _asked(seq: TokenSequence) -> _Asked:
    prompt, params = np.array(seq.token_ids[: seq.num_prompt_tokens], np.int32).tobytes(), seq.params
    ruled = seq.constraint is not None or params.logprobs is not None or params.penalised or bool(params.logit_bias)
    return _Asked(xxhash.xxh3_64_intdigest(prompt + _TWO.pack((params.seed or 0) % 2**64, seq.index)), ruled)


def _words(backend: Backend) -> Sequence[int]:
    """Ids of tokens that are a word each, by number."""
    return [i for i in range(backend.get_vocab_size()) if _WORD.fullmatch(backend.decode([i]))]
