"""What ``/v1/completions`` answers with: OpenAI's legacy Completions (openai-python 3.52 types)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from chatpager.server.wire_chat import CompletionUsage


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """One entry a token in each list. ``text_offset`` counts characters of the choice's text; a token that ends in the
    middle of a character is shown with U+FFFD."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Of an answer, or of a chunk of one, which has a reason only at its end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer to every prompt, ``n`` of each, or a chunk of one. ``chatpager`` is the first prompt's account.
    ``usage`` of a chunk is there where it was asked for: null in all but the last."""

    id: str
    object: str = msgspec.field(default_factory=lambda: "text_completion")
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | msgspec.UnsetType | None = msgspec.UNSET
    chatpager: dict[str, Any] | None = None
