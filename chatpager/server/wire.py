"""The objects of the wire, as OpenAI's clients know them; what is ours stands under ``chatpager``.

A response, errors and lists; ``wire_events``, ``wire_chat`` and ``wire_conversations`` have the others. Shapes after
OpenAI's API reference for Responses (openai-python 3.52 types), and what the Open Responses specification requires.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]
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
    """A part of an answer's item."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class InputText(msgspec.Struct, frozen=True):
    """A part of any other item."""

    text: str
    type: str = "input_text"


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    type: str = msgspec.field(default_factory=lambda: "message")
    status: ItemStatus
    role: str
    content: list[TextPart]
    chatpager: dict[str, Any] | None = None


class InputItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that is no answer. ``chatpager``: the account of a turn that ended before it had said anything."""

    id: str
    type: str = msgspec.field(default_factory=lambda: "message")
    status: ItemStatus
    role: str
    content: list[InputText]
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


class ReasoningPart(msgspec.Struct, frozen=True):
    text: str
    type: str = "reasoning_text"


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True):
    """What the model thought."""

    id: str
    type: str = "reasoning"
    status: ItemStatus
    summary: list[Any] = []
    content: list[ReasoningPart]


OutputItem = Item | FunctionCallItem | ReasoningItem
AnyItem = InputItem | OutputItem | FunctionOutputItem


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
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[Any] = []
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    store: bool = True
    background: bool = False
    completed_at: int | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning: dict[str, Any] = msgspec.field(default_factory=lambda: {"effort": None, "summary": None})
    safety_identifier: str | None = None
    service_tier: str = "default"
    text: dict[str, Any] = msgspec.field(default_factory=lambda: {"format": {"type": "text"}})
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    truncation: str = "disabled"
    usage: Usage | None = None
    user: str | None = None
    prompt_cache_diagnostics: dict[str, Any] | None = None
    chatpager: dict[str, Any] = {}


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an HTTP error."""

    error: ErrorBody


class InputTokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``chatpager``: what was passed over."""

    object: str = msgspec.field(default_factory=lambda: "response.input_tokens")
    input_tokens: int
    chatpager: dict[str, Any] | None = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """As vLLM's ``/tokenize`` answers."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    chatpager: dict[str, Any] | None = None
    """What was passed over."""


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


_encoder = msgspec.json.Encoder()


def encoded(value: Any) -> bytes:
    """One object as JSON text in UTF-8."""
    return _encoder.encode(value)


def each_encoded(values: Iterable[Any]) -> list[msgspec.Raw]:
    """For lists that take long, in a thread: between two of these calls others have their turn, in one call nobody."""
    return [msgspec.Raw(encoded(value)) for value in values]


def encoded_by(field: str, whole: msgspec.Struct) -> bytes:
    """``encoded`` of an object whose ``field`` is such a list."""
    return encoded(msgspec.structs.replace(whole, **{field: each_encoded(getattr(whole, field))}))


def has_logprobs(response: Response | dict[str, Any]) -> bool:
    """Of a response that ended now, or that the store has."""
    return any(_of(part, "logprobs") for item in _of(response, "output") for part in _of(item, "content") or ())


def encoded_by_logprob(response: Response | dict[str, Any]) -> bytes:
    """``encoded`` of a response, each of its log probabilities by itself."""
    return encoded(_with(response, output=[_by_logprob(item) for item in _of(response, "output")]))


def _by_logprob(item: Any) -> Any:
    content = [
        _with(part, logprobs=each_encoded(told)) if (told := _of(part, "logprobs")) else part
        for part in _of(item, "content") or ()
    ]
    return _with(item, content=content) if content else item


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _with(value: Any, **changed: Any) -> Any:
    return {**value, **changed} if isinstance(value, dict) else msgspec.structs.replace(value, **changed)


def encode(value: Any) -> str:
    """One object as JSON text."""
    return encoded(value).decode()
