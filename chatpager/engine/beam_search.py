"""Beam search: the likeliest continuations as a whole, not token by token.

The algorithm is transformers' (``generate(num_beams=..., early_stopping=False)``), so its results can be compared. Each
round asks for one token of every beam; beams share the blocks of what they have in common, and a beam that branches
computes its last, partial block again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from chatpager.engine.sampling_params import MAX_LOGPROBS
from chatpager.errors import InvalidRequest

Expand = Callable[[Sequence[Sequence[int]], int], list[list[tuple[int, float]]]]
"""The likeliest next tokens of each sequence, that many, with their log-probabilities."""


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names are vLLM's. ``beam_width`` beams live at a time and as many answers are given, the best first; an
    answer's score is its log-probability over its length to the power of ``length_penalty``.

    Raises InvalidRequest when a value is out of range.
    """

    beam_width: int
    max_tokens: int = 16
    ignore_eos: bool = False
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.beam_width <= MAX_LOGPROBS // 2:
            raise InvalidRequest(f"beam_width must be between 1 and {MAX_LOGPROBS // 2}", param="beam_width")
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")


@dataclass(order=True, frozen=True)
class Beam:
    """Generated tokens; ``score`` is the sum of their log-probabilities, in the end divided by the length's power."""

    score: float
    token_ids: list[int] = field(compare=False)
    ended: bool = field(default=False, compare=False)


def beam_search(
    prompt: Sequence[int], params: BeamSearchParams, end_ids: Collection[int], expand: Expand
) -> list[Beam]:
    """The ``beam_width`` best continuations of ``prompt``, the best first.

    Raises InvalidRequest: so many beams and end tokens need more candidates than the sampler gives.
    """
    ends = frozenset() if params.ignore_eos else frozenset(end_ids)
    width, wanted = params.beam_width, max(2, len(ends) + 1) * params.beam_width
    if wanted > MAX_LOGPROBS:
        most = MAX_LOGPROBS // max(2, len(ends) + 1)
        raise InvalidRequest(f"beam_width is at most {most} where {len(ends)} tokens end an answer", param="beam_width")
    live, done = [Beam(0.0, [])], list[Beam]()
    for length in range(1, params.max_tokens + 1):
        expanded = expand([[*prompt, *beam.token_ids] for beam in live], wanted)
        candidates = heapq.nlargest(
            wanted,
            (
                Beam(beam.score + logprob, [*beam.token_ids, token])
                for beam, tokens in zip(live, expanded, strict=True)
                for token, logprob in tokens
            ),
        )
        last = length == params.max_tokens
        penalty = length**params.length_penalty
        # Only the best ``width`` may end; the others are there so that as many can go on.
        ending = [c for c in candidates[:width] if last or c.token_ids[-1] in ends]
        ended = [Beam(c.score / penalty, c.token_ids, c.token_ids[-1] in ends) for c in ending]
        done = heapq.nlargest(width, [*done, *ended])
        live = [c for c in candidates if c.token_ids[-1] not in ends][:width]
        if not live or (len(done) == width and live[0].score / penalty <= done[-1].score):
            break
    return done
