"""The objects of the wire, as OpenAI's clients know them; what is ours stands under ``chatpager``.

Shapes after OpenAI's API reference for Responses, Conversations and Chat Completions (openai-python 3.52 types).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ResponseStatus = Literal["in_progress", "completed", "incomplete", "cancelled", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class TextPart(msgspec.Struct, frozen=True):
    """A part of an item: ``output_text`` of an answer, ``input_text`` of everything else."""

    type: Literal["output_text", "input_text"]
    text: str
    annotations: list[Any] = []


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    type: str = msgspec.field(default_factory=lambda: "message")
    status: ItemStatus
    role: str
    content: list[TextPart]
    chatpager: dict[str, Any] | None = None


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that the model called; ``arguments`` is JSON."""

    id: str
    type: str = msgspec.field(default_factory=lambda: "function_call")
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    chatpager: dict[str, Any] | None = None


class FunctionOutputItem(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call."""

    id: str
    type: str = "function_call_output"
    status: ItemStatus
    call_id: str
    output: str


OutputItem = Item | FunctionCallItem
AnyItem = OutputItem | FunctionOutputItem


class ConversationRef(msgspec.Struct, frozen=True):
    id: str


class ErrorDetails(msgspec.Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "response"
    created_at: int
    status: ResponseStatus
    model: str
    output: list[OutputItem]
    error: ErrorDetails | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    metadata: dict[str, Any] = {}
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    tool_choice: str = "auto"
    tools: list[Any] = []
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    store: bool = True
    background: bool = False
    completed_at: int | None = None
    truncation: str = "disabled"
    usage: Usage | None = None
    prompt_cache_diagnostics: dict[str, Any] | None = None
    chatpager: dict[str, Any] = {}


# -- events of a response; sequence_number counts them from 0 ---------------------------------------------------------


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.created``, ``.in_progress``, ``.completed``, ``.incomplete``, ``.failed``."""

    type: str
    sequence_number: int
    response: Response


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.output_item.added`` and ``.done``."""

    type: str
    sequence_number: int
    output_index: int = 0
    item: OutputItem


class PartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.content_part.added`` and ``.done``."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: TextPart


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.output_text.delta"
    sequence_number: int
    item_id: str
    output_index: int = 0
    content_index: int = 0
    delta: str
    logprobs: list[Any] = []


class TextDone(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.output_text.done"
    sequence_number: int
    item_id: str
    output_index: int = 0
    content_index: int = 0
    text: str
    logprobs: list[Any] = []


class ArgumentsDelta(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.function_call_arguments.delta"
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.function_call_arguments.done"
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class PrefillEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Ours, without a sequence number: it is no part of the response. Only for clients of ``chatpager.v1``."""

    type: str = "chatpager.prefill"
    response_id: str
    done: int
    total: int
    cached: int


Event = ResponseEvent | ItemEvent | PartEvent | TextDelta | TextDone | ArgumentsDelta | ArgumentsDone | PrefillEvent


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of an SSE stream that a mistake of the server's ended."""

    type: str = "error"
    sequence_number: int
    message: str
    code: str | None
    param: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an HTTP error."""

    error: ErrorBody


class ErrorFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A WebSocket frame: a request was refused and no response began."""

    type: str = "error"
    status: int
    error: ErrorBody


# -- conversations and lists ------------------------------------------------------------------------------------------


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, Any]
    chatpager: dict[str, Any]


class ConversationCache(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the conversation that were kept at its last turn's end: all, those in the device's cache, those that
    host memory and disk have behind them, those shared with other conversations; and its leases."""

    object: str = "conversation.cache"
    id: str
    tokens: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    leases: list[dict[str, Any]] = []


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """A published prefix. ``status`` "not_served": it is of another vocabulary than the served model's, or has no whole
    block any more, and nothing shares it. Tokens as in ``ConversationCache``; ``sessions`` are the conversations that
    begin with it, of those spoken in since the start. ``pin`` is what was granted, where one was asked for."""

    object: str = "prefix"
    label: str
    status: Literal["published", "not_served"]
    model: str
    created_at: int
    tokens: int = 0
    blocks: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0
    sessions: int = 0
    leases: list[dict[str, Any]] = []
    instructions: str | None = None
    pin: dict[str, Any] | None = None


class CacheHolder(ConversationCache, frozen=True, kw_only=True):
    """One of several, who may be several tenants'."""

    tenant: str


class CacheEvent(msgspec.Struct, frozen=True):
    """A KV block came into the device's cache or left it; ``block`` and ``parent`` are its name and that of the block
    before it, in hexadecimal."""

    type: str
    sequence_number: int
    block: str
    parent: str | None


class CacheEvents(msgspec.Struct, frozen=True, kw_only=True):
    """``missed`` events came between and are not kept any more, or the ``epoch`` is another, because the server was
    started anew: ask without ``after`` for what there is now."""

    object: str = "list"
    data: list[CacheEvent]
    epoch: str
    last_sequence_number: int
    missed: int


class LeaseFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Ours: what became of a lease on a conversation that this client has spoken in. Only for ``chatpager.v1``."""

    type: str = "chatpager.lease"
    conversation: str
    change: str
    strength: str
    tokens: int
    expires_in: float
    reason: str


class ResumedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Ours: whether a response's events can be told again; then those behind ``starting_after`` follow. ``status`` is
    the response's, where it is known. Only for ``chatpager.v1``."""

    type: str = "chatpager.resumed"
    response_id: str
    recovered: bool
    starting_after: int
    status: ResponseStatus | None


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "response.input_tokens"
    input_tokens: int


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """As vLLM's ``/tokenize`` answers."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str
    deleted: bool = True


class Page(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "chatpager"


# -- chat completions -------------------------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CalledFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ChatToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an answer, or of a chunk, which has its ``index``."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: CalledFunction | None = None


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an answer, or as the delta of a chunk."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: str


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: ChatMessage
    logprobs: None = None
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
    id: str
    object: str = msgspec.field(default_factory=lambda: "chat.completion.chunk")
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    chatpager: dict[str, Any] | None = None


Frame = Event | ErrorFrame | LeaseFrame | ResumedFrame
_encoder = msgspec.json.Encoder()


def encode(value: Any) -> str:
    """One object as JSON text."""
    return _encoder.encode(value).decode()


def encode_in(lane: str | None, frame: Frame) -> str:
    """A frame as JSON text, with the ``stream_id`` of the lane that it belongs to."""
    text = encode(frame)
    return text if lane is None else f'{text[:-1]},"stream_id":{encode(lane)}}}'
