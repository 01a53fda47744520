"""What one step computes, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatpager.engine.sequence import Sequence


@dataclass(frozen=True)
class Limits:
    """Tokens and sequences a step may hold, and the knobs of fairness."""

    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    long_prefill_threshold: int = 4096
    """A prompt with more left is long, and so is one with more left than half a step."""
    long_prefill_share: float = 0.5
    """Of the prefill budget, for the long lane while the short one is not empty."""
    age_credit: int = 256
    """Tokens that a waiting request's uncached length seems shorter for every step it has waited."""
    max_preemptions: int = 3
    watermark: float = 0.01
    step_seconds: float = 0.0
    """How long a step with prompts may take while others decode, by what such steps took (``pace``); 0: no bound."""
    window: int = 32
    """Waiting requests that are compared in one step."""


@dataclass(eq=False, slots=True)
class Row:
    """``count`` tokens of one sequence in one step. ``samples`` get a token from its last logits (n > 1: several)."""

    seq: Sequence
    count: int
    samples: list[Sequence] = field(default_factory=list)
    copy: tuple[int, int] | None = None
    """(shared block, own block): copied before the step writes into it. The shared one is held until the step is over
    (``step_copies``), so that a step can be repeated, and no block is source and target in one step."""
    start: int = -1
    """Of its sequence's tokens the first that is computed; by default what is not committed yet."""
    is_fed: bool = False
    """Its one token is drawn by the step before, whose end nobody waited for: the device has it, the host not yet."""
    dropped: bool = False
    """The sequence has left while the step ran: what it brings is nobody's."""

    def __post_init__(self) -> None:
        if self.start < 0:
            self.start = self.seq.committed

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass
class Plan:
    rows: list[Row] = field(default_factory=list)
    decodes: bool = False
    """Whether somebody waits for a next token in it."""
    prompt_tokens: int = 0
    cut: bool = False
    """Whether a prompt would have got more, had there been room in the step."""
    full: bool = False
    """Whether somebody waits for whom there were no blocks."""


@dataclass
class SchedulerStats:
    preemptions: int = 0
    swaps: int = 0
    """Preemptions whose blocks go to host memory where they are evicted; the others' are computed again."""
    recomputed_tokens: int = 0
    deferred: int = 0
