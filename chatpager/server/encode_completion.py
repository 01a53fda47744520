"""Turns of bare prompts as legacy Completions: one object, or chunks. Pure.

A choice's logprobs are told with the text that they stand for: a token belongs to the chunk that brings the first
character behind its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from chatpager.engine.messages import TokenLogprob
from chatpager.server.encode_chat import FINISH, completion_usage
from chatpager.server.wire_completions import Completion, CompletionChoice, CompletionLogprobs
from chatpager.sessions.logprobs import PlacedLogprobs
from chatpager.sessions.stream import Ended

REASONS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}


class Head(NamedTuple):
    """What every chunk of an answer begins with. ``created`` is in seconds."""

    id: str
    created: int
    model: str


def completion(
    head: Head, choices: Sequence[CompletionChoice], usage: Mapping[str, int], ours: dict[str, Any]
) -> Completion:
    return Completion(**head._asdict(), choices=list(choices), usage=completion_usage(usage), chatpager=ours)


def chunk(head: Head, choice: CompletionChoice, ours: dict[str, Any] | None = None, *, tells_usage: bool) -> Completion:
    """``tells_usage``: the last one will have it, so this one has a place for it."""
    usage = None if tells_usage else msgspec.UNSET
    return Completion(**head._asdict(), choices=[choice], usage=usage, chatpager=ours)


def usage_chunk(head: Head, usage: Mapping[str, int]) -> Completion:
    return Completion(**head._asdict(), choices=[], usage=completion_usage(usage))


def reason(ended: Ended) -> Literal["stop", "length"]:
    return REASONS[FINISH[ended.status]]


def usage_of_prompts(prompts: Sequence[Sequence[Mapping[str, int]]]) -> dict[str, int]:
    """Of each prompt the usages of its answers: what was asked counts once a prompt, what was answered every time."""
    asked = {
        name: sum(answers[0][name] for answers in prompts)
        for name in ("input_tokens", "cached_tokens", "cache_write_tokens")
    }
    return {**asked, "output_tokens": sum(usage["output_tokens"] for answers in prompts for usage in answers)}


def ids_of(found: Iterable[PlacedLogprobs]) -> list[int]:
    """Every id that ``logprobs`` needs the text of."""
    return sorted({each.token_id for placed in found for each in _shown(placed)})


def logprobs(found: Sequence[PlacedLogprobs], texts: Mapping[int, str], before: int = 0) -> CompletionLogprobs:
    """``before``: characters of the choice's text that stand before the answer's. Of tokens that are shown alike (parts
    of characters) the likeliest is told."""
    return CompletionLogprobs(
        tokens=[texts[placed.sampled.chosen.token_id] for placed in found],
        token_logprobs=[placed.sampled.chosen.logprob for placed in found],
        top_logprobs=[
            {texts[each.token_id]: each.logprob for each in sorted(_shown(placed), key=lambda each: each.logprob)}
            for placed in found
        ],
        text_offset=[before + placed.offset for placed in found],
    )


def _shown(placed: PlacedLogprobs) -> list[TokenLogprob]:
    return [*placed.sampled.top, placed.sampled.chosen]
