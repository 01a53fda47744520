"""The events of a response and the other frames of the WebSocket. ``sequence_number`` counts from 0 in each response.

Shapes after OpenAI's API reference for Responses (openai-python 3.52 types).
"""

from __future__ import annotations

from typing import Any

import msgspec

from chatpager.server import wire


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.created``, ``.in_progress``, ``.completed``, ``.incomplete``, ``.failed``."""

    type: str
    sequence_number: int
    response: wire.Response


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.output_item.added`` and ``.done``."""

    type: str
    sequence_number: int
    output_index: int = 0
    item: wire.OutputItem


class PartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.content_part.added`` and ``.done``."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: wire.TextPart | wire.ReasoningPart


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class ReasoningDelta(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.reasoning_text.delta"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    delta: str


class ReasoningDone(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "response.reasoning_text.done"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    text: str


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


StreamEvent = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
)
"""Of a response, numbered."""
Event = StreamEvent | PrefillEvent


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of an SSE stream that a mistake of the server's ended."""

    type: str = "error"
    sequence_number: int
    message: str
    code: str | None
    param: str | None = None


class ErrorFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A WebSocket frame: a request was refused and no response began. ``retry_after_ms`` stands where it may be asked
    again then, ``about`` where it is no answer to the lane's response: the type of the frame that was refused, or
    "frame"."""

    type: str = "error"
    status: int
    error: wire.ErrorBody
    retry_after_ms: int | msgspec.UnsetType = msgspec.UNSET
    about: str | msgspec.UnsetType = msgspec.UNSET


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
    status: wire.ResponseStatus | None


class PongFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Ours: the answer to a ``chatpager.ping``, with the ``t`` that it came with. Only for ``chatpager.v1``."""

    type: str = "chatpager.pong"
    t: float | None


Frame = Event | ErrorFrame | LeaseFrame | ResumedFrame | PongFrame


def encode_in(lane: str | None, frame: Frame) -> bytes:
    """A frame as JSON text, with the ``stream_id`` of the lane that it belongs to."""
    return in_lane(lane, wire.encoded(frame))


def in_lane(lane: str | None, text: bytes) -> bytes:
    """The same of a frame that is JSON text already."""
    return text if lane is None else b'%b,"stream_id":%b}' % (text[:-1], wire.encoded(lane))
