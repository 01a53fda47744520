"""What the engine needs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from chatpager.engine.block_hash import Field
from chatpager.engine.pages import Pages
from chatpager.engine.plan import Plan
from chatpager.engine.sampler import Sampled
from chatpager.errors import RankLost


class Runner(Pages, Protocol):
    """What the engine needs of a model: ``ModelRunner``, ``FakeRunner``, or a test's own."""

    num_blocks: int
    max_model_len: int

    @property
    def lost(self) -> RankLost | None:
        """Why it is of no use any more."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    def hash_domain(self) -> Iterable[tuple[str, Field]]: ...

    def run(self, plan: Plan) -> list[Sampled]: ...


@runtime_checkable
class Launcher(Protocol):
    """A runner that can be given a step while the one before runs."""

    @property
    def is_apart(self) -> bool:
        """Whether it computes while the host does something else, so that there is something to gain."""
        ...

    def launch(self, plan: Plan) -> Callable[[], list[Sampled]]:
        """Begin a step; what is returned waits for it and gives what ``run`` does. Rows that are fed take the tokens
        which the step launched before draws. Steps are computed in the order in which they are launched."""
        ...
