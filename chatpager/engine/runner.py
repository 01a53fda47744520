"""What the engine needs of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from chatpager.engine.block_hash import Field
from chatpager.engine.plan import Plan
from chatpager.engine.sampler import Sampled
from chatpager.engine.tiers import Pages


class Runner(Pages, Protocol):
    """What the engine needs of a model: ``ModelRunner``, ``FakeRunner``, or a test's own."""

    num_blocks: int
    max_model_len: int

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    def hash_domain(self) -> Iterable[tuple[str, Field]]: ...

    def run(self, plan: Plan) -> list[Sampled]: ...
