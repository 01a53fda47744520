"""What ``/v1/messages`` answers with: Anthropic's Messages (types of the anthropic package 2.14)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class CacheCreation(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of ``cache_creation_input_tokens`` by how long they are kept."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The first three add up to the prompt: what was in no cache and was not asked to be kept, what this request put
    there to be kept, and what was there."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    cache_creation: CacheCreation
    output_tokens: int


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """What was thought before the answer. It is kept with the answer: sent back, it is passed over, so that it needs no
    signature."""

    thinking: str
    signature: str = ""


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """``input`` is a JSON object."""

    id: str
    name: str
    input: dict[str, Any]


Block = ThinkingBlock | TextBlock | ToolUseBlock


class AnthropicMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage
    chatpager: dict[str, Any] = {}


# -- events -----------------------------------------------------------------------------------------------------------


class MessageStart(msgspec.Struct, frozen=True, tag="message_start"):
    message: AnthropicMessage


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    pass


class BlockStart(msgspec.Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Block


class BlockThinking(msgspec.Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class BlockText(msgspec.Struct, frozen=True, tag="text_delta"):
    text: str


class BlockInput(msgspec.Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: BlockThinking | BlockText | BlockInput


class BlockStop(msgspec.Struct, frozen=True, tag="content_block_stop"):
    index: int


class MessageEnd(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag="message_delta"):
    delta: MessageEnd
    usage: MessageUsage
    chatpager: dict[str, Any]


class MessageStop(msgspec.Struct, frozen=True, tag="message_stop"):
    pass


MessageEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class CountedTokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """``chatpager``: what was passed over."""

    input_tokens: int
    chatpager: dict[str, Any] | None = None


# -- errors -----------------------------------------------------------------------------------------------------------


class AnthropicErrorBody(msgspec.Struct, frozen=True):
    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an HTTP error, and the last event of a stream that went wrong."""

    type: str = "error"
    error: AnthropicErrorBody
    request_id: str
