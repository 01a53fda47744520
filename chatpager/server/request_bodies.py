"""The bodies of the wires' requests, as far as their fields have an effect; ``reading`` knows the others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from chatpager.engine.sampling_params import MAX_LOGPROBS, MAX_N
from chatpager.server.cache_wishes import CacheWishes
from chatpager.server.extensions import Extensions, ResponseExtensions
from chatpager.server.input_items import Json
from chatpager.server.tools import Offered, offered_tools

MAX_TEMPERATURE = 2
"""OpenAI's; Anthropic's is 1 (``message_requests``)."""
MAX_BIASED = 1024
"""Tokens of ``logit_bias``, which each step looks at."""
Includable = Literal[
    "message.output_text.logprobs",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""OpenAI's. All but the first name parts of answers that there are none of here."""
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)]


class Sampling(CacheWishes, frozen=True, kw_only=True):
    """Fields that both wires share; the last five are the field's usual extensions."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float], msgspec.Meta(max_length=MAX_BIASED)] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None


SAMPLING_FIELDS = tuple(set(Sampling.__struct_fields__) - set(CacheWishes.__struct_fields__))


class Calling(Sampling, frozen=True, kw_only=True):
    """Fields of tools, which both wires share but for the form of each tool."""

    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None

    def offered(self, *, nested: bool) -> Offered:
        """Raises InvalidRequest."""
        return offered_tools(self.tools, self.tool_choice, self.parallel_tool_calls is not False, nested=nested)


class EventOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stream_options`` of a response. Its events are not padded (``include_obfuscation``)."""

    include_obfuscation: bool | None = None


class StreamOptions(EventOptions, frozen=True, forbid_unknown_fields=True):
    """Those of the other streams of OpenAI's. ``include_usage``: a last chunk has it, and the others a null."""

    include_usage: bool | None = None


class TextWish(msgspec.Struct, frozen=True):
    """``verbosity`` is for models that know of it."""

    format: Any = None
    verbosity: str | None = None


class ResponseCreate(Calling, frozen=True, kw_only=True):
    """Body of POST /v1/responses, and of the ``response.create`` frame."""

    model: str | None = None
    input: str | list[Json] | None = None
    instructions: str | None = None
    conversation: str | Json | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    generate: bool | None = None
    stream: bool | None = None
    stream_options: EventOptions | None = None
    background: bool | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=1)] | None = None
    text: TextWish | None = None
    include: list[Includable] | None = None
    top_logprobs: TopLogprobs | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: Json | None = None
    chatpager: ResponseExtensions = ResponseExtensions()


class ChatCreate(Calling, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: list[Json]
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    generate: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Any = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: str | None = None
    chatpager: Extensions = Extensions()

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
