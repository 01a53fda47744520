"""What clients ask for, checked: a body in, a ``TurnRequest`` out, or a typed error and nothing changed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import xxhash

from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidRequest, ModelNotFound
from chatpager.server.cache_wishes import CacheWishes, keep_seconds
from chatpager.server.input_items import Json, check_text, input_messages, shown
from chatpager.server.reading import read
from chatpager.server.tools import Offered, offered_tools
from chatpager.sessions.around import Placement
from chatpager.sessions.turn import TurnRequest
from chatpager.store import NewMessage, text_content

MAX_METADATA = 16
MAX_WARNINGS = 16
MAX_INT = 2**31 - 1
MAX_CHOICES = 128
"""OpenAI's limit."""
UNKEPT_KEY = "nothing is kept of a turn with store: false, so its key is not known again either"
PREPARING = SamplingParams(temperature=0.0, max_tokens=1)
"""The prompt is computed once its first token is sampled, which nobody sees."""


class Extensions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``chatpager`` object of a request."""

    priority: Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)] = 0


class ResponseExtensions(Extensions, frozen=True, forbid_unknown_fields=True):
    """``instructions``: where they stand."""

    instructions: Placement = "head"


class Sampling(CacheWishes, frozen=True, kw_only=True):
    """Fields that both wires share; the last five are the field's usual extensions."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
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
    chatpager: ResponseExtensions = ResponseExtensions()


class ChatCreate(Calling, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: list[Json]
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    generate: bool | None = None
    stream: bool | None = None
    stream_options: Json | None = None
    chatpager: Extensions = Extensions()


class Served(NamedTuple):
    """The one model, and how it is sampled when the request does not say."""

    name: str
    defaults: Mapping[str, Any]


# -- the two bodies ---------------------------------------------------------------------------------------------------


def response_request(
    raw: Json, served: Served, tenant: str, key: str | None = None, *, draft: bool = False
) -> TurnRequest:
    """A turn for the Responses API; ``key`` as ``TurnRequest.client_key``. Of a ``draft`` the last message is not
    finished: instructions behind it are no part of the conversation yet. Raises InvalidRequest, ModelNotFound."""
    body, unknown = read(raw, ResponseCreate)
    check_model(body.model, served)
    session_id = _conversation_id(body.conversation)
    previous = check_text(body.previous_response_id or "", "previous_response_id") or None
    instructions = check_text(body.instructions or "", "instructions") or None
    if session_id and previous:
        raise InvalidRequest("send conversation or previous_response_id, not both", param="conversation")
    messages = input_messages(body.input, "input")
    placed = "tail" if draft and body.chatpager.instructions == "append" else body.chatpager.instructions
    if instructions and placed == "append":
        messages.append(NewMessage(role="developer", content=text_content(instructions)))
    if not messages and not (session_id or previous):
        raise InvalidRequest("there is no input", param="input")
    whole = not (session_id or previous) and any(message.role == "assistant" for message in messages)
    stored = body.store is not False
    if session_id and not stored:
        raise InvalidRequest("a conversation's turns are stored; leave store out", param="store")
    params = sampling_params(body, body.max_output_tokens, served, "max_output_tokens")
    offered = body.offered(nested=False)
    echo = {
        "instructions": body.instructions,
        **({"instructions_placed": placed} if instructions and placed != "head" else {}),
        "metadata": check_metadata(body.metadata),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_output_tokens": body.max_output_tokens,
        "store": stored,
        **({"sent": _digest(raw)} if key else {}),
        **({"sent_messages": len(messages)} if whole else {}),
        **offered.echo,
    }
    kept = keep_seconds(body, body.input, "input")
    generate = body.generate is not False and not body.prewarms
    return TurnRequest(
        id="resp_" + secrets.token_hex(16),
        tenant=tenant,
        kind="response",
        model=served.name,
        messages=messages,
        params=params if generate else PREPARING,
        session_id=session_id,
        previous_turn_id=previous,
        whole=whole,
        instructions=instructions if placed == "head" else None,
        tail=instructions if placed == "tail" else None,
        tools=offered.tools,
        may_call=offered.may_call,
        stored=stored,
        generate=generate,
        priority=body.chatpager.priority,
        keep_seconds=kept,
        compare_with=_compared(body),
        client_key=key if stored else None,
        parameters=_with_warnings(
            _without_answer(echo, generate),
            [*offered.warnings, *([] if stored or not key else [UNKEPT_KEY])],
            unknown,
            unkept=kept > 0 and not stored,
        ),
    )


def _digest(raw: Json) -> str:
    """Of what is asked, however it is to be answered."""
    asked = {name: value for name, value in raw.items() if name not in ("type", "stream", "background")}
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(asked, order="deterministic"))


def _compared(body: ResponseCreate) -> str | None:
    named = body.prompt_cache_options.comparison_response_id if body.prompt_cache_options else None
    return check_text(named or "", "prompt_cache_options.comparison_response_id") or None


def chat_request(raw: Json, served: Served, tenant: str) -> tuple[TurnRequest, ChatCreate]:
    """A turn for Chat Completions, which sends the whole conversation. Raises InvalidRequest, ModelNotFound."""
    body, unknown = read(raw, ChatCreate)
    check_model(body.model, served)
    messages = input_messages(body.messages, "messages")
    if not messages:
        raise InvalidRequest("there are no messages", param="messages")
    if body.prompt_cache_options and body.prompt_cache_options.comparison_response_id:
        param = "prompt_cache_options.comparison_response_id"
        raise InvalidRequest("diagnostics are told on /v1/responses only", param=param)
    limit_name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    params = sampling_params(body, getattr(body, limit_name), served, limit_name)
    generate = body.generate is not False and not body.prewarms
    n = (body.n or 1) if generate else 1
    offered = body.offered(nested=True)
    echo: Json = {"metadata": check_metadata(body.metadata), **({"n": n} if n > 1 else {}), **offered.echo}
    kept = keep_seconds(body, body.messages, "messages")
    request = TurnRequest(
        id="chatcmpl_" + secrets.token_hex(16),
        tenant=tenant,
        kind="chat",
        model=served.name,
        messages=messages,
        params=msgspec.structs.replace(params, n=n) if generate else PREPARING,
        whole=True,
        tools=offered.tools,
        may_call=offered.may_call,
        stored=body.store is not False,
        generate=generate,
        priority=body.chatpager.priority,
        keep_seconds=kept,
        parameters=_with_warnings(
            _without_answer(echo, generate), offered.warnings, unknown, unkept=kept > 0 and body.store is False
        ),
    )
    return request, body


def _without_answer(parameters: Json, generate: bool) -> Json:
    return parameters if generate else {**parameters, "generate": False}


def _with_warnings(parameters: Json, warnings: Sequence[str], unknown: Sequence[str], *, unkept: bool) -> Json:
    warnings = [*warnings, *(f"unknown field {shown(name)} was passed over" for name in unknown[:MAX_WARNINGS])]
    if unkept:
        warnings.append("nothing is kept of a turn with store: false, so its prefix is not pinned either")
    return {**parameters, "warnings": warnings} if warnings else parameters


# -- their parts ------------------------------------------------------------------------------------------------------


def check_model(name: str | None, served: Served) -> None:
    """Raises ModelNotFound."""
    if name is not None and name not in ("", "default", served.name):
        raise ModelNotFound(f"model {shown(name)} is not served here; this is {served.name!r}", param="model")


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters."""
    metadata = dict(metadata or {})
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(f"metadata holds at most {MAX_METADATA} pairs", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > 64 or len(value) > 512 or "\0" in key + value:
            raise InvalidRequest("metadata is text: keys of up to 64, values of up to 512 characters", param="metadata")
    return metadata


def sampling_params(body: Sampling, limit: int | None, served: Served, limit_name: str) -> SamplingParams:
    """The request's wishes over the model's own defaults. Raises InvalidRequest."""
    given = {name: getattr(body, name) for name in SAMPLING_FIELDS}
    wishes = {**served.defaults, **{k: v for k, v in given.items() if v is not None}}
    if limit is not None and not 1 <= limit <= MAX_INT:
        raise InvalidRequest(f"{limit_name} must be between 1 and {MAX_INT}", param=limit_name)
    if body.top_k is not None and body.top_k > MAX_INT:
        raise InvalidRequest(f"top_k must be at most {MAX_INT}", param="top_k")
    if isinstance(wishes.get("stop"), list):
        wishes["stop"] = tuple(wishes["stop"])
    return SamplingParams(max_tokens=limit, **wishes)


def _conversation_id(value: str | Json | None) -> str | None:
    if isinstance(value, dict):
        value = value.get("id")
        if not isinstance(value, str):
            raise InvalidRequest("conversation is an id, or an object with one", param="conversation")
    return check_text(value or "", "conversation") or None
