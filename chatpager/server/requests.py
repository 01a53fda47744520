"""What clients send, read and checked: JSON in, a ``TurnRequest`` out, or a typed error and nothing changed.

Three kinds of fields: those with an effect (the structs below); those that are accepted because they ask for nothing
here (``HARMLESS``); those whose feature is not built, which are refused when they ask for it (``UNBUILT``). Any other
field is passed over and named in the answer's ``chatpager.warnings``.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidJSON, InvalidRequest, ModelNotFound
from chatpager.server.cache_wishes import CacheWishes, keep_seconds
from chatpager.server.input_items import Json, check_text, input_messages, shown
from chatpager.server.tools import Offered, offered_tools
from chatpager.sessions.turn import TurnRequest

S = TypeVar("S", bound=msgspec.Struct)

MAX_METADATA = 16
MAX_WARNINGS = 16
MAX_INT = 2**31 - 1
MAX_CHOICES = 128
"""OpenAI's limit."""
PREPARING = SamplingParams(temperature=0.0, max_tokens=1)
"""The prompt is computed once its first token is sampled, which nobody sees."""


class Extensions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``chatpager`` object of a request."""

    priority: Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)] = 0


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
    chatpager: Extensions = Extensions()


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


HARMLESS: dict[str, tuple[type, ...]] = {
    "max_tool_calls": (int,), "prompt_cache_key": (str,), "safety_identifier": (str,),
    "service_tier": (str,), "stream_options": (dict,), "type": (str,), "user": (str,),
}  # fmt: skip
"""Name -> the types it may have besides null."""

NO_LOGPROBS = "logprobs are not built yet on this wire"
NO_STRUCTURE, NO_REASONING = "structured output is not built yet", "no reasoning models yet"
UNBUILT: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "functions": ((list,), bool, "not built; send them as tools"),
    "background": ((bool,), bool, "not built yet; a stored response goes on without its reader anyway"),
    "stream_id": ((str,), bool, "lanes are not built yet; open another socket"),
    "n": ((int,), lambda v: v not in (None, 1), "a response is one; several choices are had on /v1/chat/completions"),
    "logprobs": ((bool,), bool, NO_LOGPROBS),
    "top_logprobs": ((int,), bool, NO_LOGPROBS),
    # The other values of OpenAI's name parts of answers that there are none of here.
    "include": ((list,), lambda v: "message.output_text.logprobs" in (v or []), NO_LOGPROBS),
    "prompt": ((dict,), bool, "stored prompts are not built; send the text"),
    "truncation": ((str,), lambda v: v not in (None, "disabled"), 'only "disabled": nothing is cut off silently'),
    "text": ((dict,), lambda v: _format(v) != "text", NO_STRUCTURE),
    "response_format": ((dict,), lambda v: _format({"format": v}) != "text", NO_STRUCTURE),
    "audio": ((dict,), bool, "text only"),
    "modalities": ((list,), lambda v: v not in (None, ["text"]), "text only"),
    "context_management": ((list, dict), bool, "compaction is not built yet"),
    "moderation": ((dict,), bool, "moderation is not built"),
    "cache_salt": ((str,), bool, "salts come from the credentials, not from the request"),
    "reasoning": ((dict,), lambda v: any(x is not None for x in (v or {}).values()), NO_REASONING),
    "reasoning_effort": ((str,), bool, NO_REASONING),
}
"""Name -> the types it may have besides null, whether a value asks for the feature, and why it is refused then."""

JSON_NAMES = {dict: "an object", list: "an array", str: "text", int: "a whole number", bool: "true or false"}


def _format(text: Json | None) -> Any:
    """The type of the answer that a ``text`` object asks for."""
    wanted = (text or {}).get("format")
    return wanted.get("type", "text") if isinstance(wanted, dict) else "text" if wanted is None else wanted


class Served(NamedTuple):
    """The one model, and how it is sampled when the request does not say."""

    name: str
    defaults: Mapping[str, Any]


def decode(data: str | bytes) -> Json:
    """A JSON object. Raises InvalidJSON."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if _has_half_a_pair(data):
            raise InvalidJSON("a text holds half of a surrogate pair (\\ud800 to \\udfff): no character") from error
        raise InvalidJSON(f"this is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidJSON("a request is a JSON object")
    return value


def _has_half_a_pair(data: str | bytes) -> bool:
    """Whether that is what msgspec refuses: it says so of some halves, and of the others that the input is cut off."""
    try:
        json.dumps(json.loads(data), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def read(raw: Json, kind: type[S]) -> tuple[S, list[str]]:
    """``raw`` as the struct, and the names of its fields that nothing is known of.

    Raises:
        InvalidRequest: with the field's name as ``param``.
    """
    fields = kind.__struct_fields__
    for name in sorted({*HARMLESS, *UNBUILT}.intersection(raw).difference(fields)):
        types, asks, message = UNBUILT.get(name) or (HARMLESS[name], lambda v: False, "")
        if raw[name] is not None and type(raw[name]) not in types:
            raise InvalidRequest(f"{name}: must be {' or '.join(JSON_NAMES[t] for t in types)}", param=name)
        if asks(raw[name]):
            raise InvalidRequest(f"{name}: {message}", param=name)
    try:
        value = msgspec.convert(raw, kind, str_keys=True)
    except msgspec.ValidationError as error:
        param, problem = _place(str(error))
        raise InvalidRequest(f"{param or 'request'}: {problem}", param=param) from error
    return value, sorted(set(raw) - {*fields, *HARMLESS, *UNBUILT})


def _place(message: str) -> tuple[str | None, str]:
    """msgspec's message as the field's name and what is wrong with it."""
    if missing := _MISSING.fullmatch(message):
        return missing[1], "this field is required"
    problem, _, path = message.partition(" - at ")
    return path.rpartition("`$")[2].rstrip("`").lstrip(".") or None, problem


_MISSING = re.compile(r"Object missing required field `(\w+)`")


# -- the two bodies ---------------------------------------------------------------------------------------------------


def response_request(raw: Json, served: Served, tenant: str) -> TurnRequest:
    """A turn for the Responses API. Raises InvalidRequest, ModelNotFound."""
    body, unknown = read(raw, ResponseCreate)
    check_model(body.model, served)
    session_id = _conversation_id(body.conversation)
    previous = check_text(body.previous_response_id or "", "previous_response_id") or None
    instructions = check_text(body.instructions or "", "instructions") or None
    if session_id and previous:
        raise InvalidRequest("send conversation or previous_response_id, not both", param="conversation")
    messages = input_messages(body.input, "input")
    if not messages and not (session_id or previous):
        raise InvalidRequest("there is no input", param="input")
    stored = body.store is not False
    if session_id and not stored:
        raise InvalidRequest("a conversation's turns are stored; leave store out", param="store")
    params = sampling_params(body, body.max_output_tokens, served, "max_output_tokens")
    offered = body.offered(nested=False)
    echo = {
        "instructions": body.instructions,
        "metadata": check_metadata(body.metadata),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_output_tokens": body.max_output_tokens,
        "store": stored,
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
        instructions=instructions,
        tools=offered.tools,
        may_call=offered.may_call,
        stored=stored,
        generate=generate,
        priority=body.chatpager.priority,
        keep_seconds=kept,
        compare_with=_compared(body),
        parameters=_with_warnings(
            _without_answer(echo, generate), offered.warnings, unknown, unkept=kept > 0 and not stored
        ),
    )


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
