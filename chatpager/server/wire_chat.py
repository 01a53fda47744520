"""The objects of Chat Completions.

Shapes after OpenAI's API reference (openai-python 3.52 types).
"""

from __future__ import annotations

from typing import Any

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


class CalledFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ChatToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an answer, or of a chunk, which has its ``index``."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: CalledFunction | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``content`` is null where the answer is calls alone."""

    role: str = msgspec.field(default_factory=lambda: "assistant")
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[Any]
    refusal: None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    chatpager: dict[str, Any] = {}


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``usage`` is there where it was asked for: null in all chunks but the last."""

    id: str
    object: str = msgspec.field(default_factory=lambda: "chat.completion.chunk")
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | msgspec.UnsetType | None = msgspec.UNSET
    chatpager: dict[str, Any] | None = None
