"""Log probabilities of an answer's tokens, with the text that each token stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import msgspec

from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.engine.token_spelling import Spelled


class PlacedLogprobs(NamedTuple):
    """Of a token, whose text begins behind so many characters of the answer's."""

    offset: int
    sampled: SampledLogprobs


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """A token that could have been drawn; natural logarithm."""

    token: str
    bytes: list[int]
    logprob: float


class Logprob(msgspec.Struct, frozen=True, gc=False):
    """The token that was drawn, and the likeliest ones at its place. Shape after OpenAI's API reference."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


@lru_cache(1 << 16)
def _numbers(its_bytes: bytes) -> list[int]:
    """One list for a token wherever it stands: of twenty at each place the collector would find little else."""
    return list(its_bytes)


def spelled(sampled: SampledLogprobs, spell: Callable[[int], Spelled]) -> Logprob:
    def shown(one: TokenLogprob) -> TopLogprob:
        text, its_bytes = spell(one.token_id)
        return TopLogprob(text, _numbers(its_bytes), one.logprob)

    drawn = shown(sampled.chosen)
    return Logprob(drawn.token, drawn.bytes, drawn.logprob, [shown(one) for one in sampled.top])


def logprobs_of(events: Iterable[object]) -> list[Logprob]:
    """Of all text in a log; events that tell none are passed over."""
    return [logprob for event in events for logprob in getattr(event, "logprobs", ())]
