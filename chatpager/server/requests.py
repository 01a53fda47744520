"""What clients ask for, checked: a body in, a ``TurnRequest`` out, or a typed error and nothing changed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import xxhash

from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidJSON, InvalidRequest, ModelNotFound, shown
from chatpager.server.cache_wishes import keep_seconds
from chatpager.server.extensions import Extensions
from chatpager.server.formats import Form, answer_form
from chatpager.server.input_items import (
    Json,
    check_says_something,
    check_text,
    input_messages,
    results_without_calls,
)
from chatpager.server.reading import read
from chatpager.server.request_bodies import SAMPLING_FIELDS, EventOptions, ResponseCreate, Sampling
from chatpager.server.tools import Offered
from chatpager.sessions.history import check_called
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import NewMessage, TurnKind, text_content

MAX_METADATA = 16
MAX_INT = 2**31 - 1
LOGPROBS = "message.output_text.logprobs"
ECHOED = (
    "frequency_penalty", "max_tool_calls", "presence_penalty", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "top_logprobs", "user",
)  # fmt: skip
"""A response says what it was asked for."""
HOW_TOLD = {"type", "stream", "stream_options", "background"}
"""Fields of a request that say nothing of what is asked."""
UNKEPT_KEY = "nothing is kept of a turn with store: false, so its key is not known again either"
THINKS_ALONE = "whether and how much is thought is the model's"
ID_PREFIXES: dict[TurnKind, str] = {"response": "resp_", "chat": "chatcmpl_", "message": "msg_"}
PREPARING = SamplingParams(temperature=0.0, max_tokens=1)
"""The prompt is computed once its first token is sampled, which nobody sees."""


class Served(NamedTuple):
    """The one model, how it is sampled when the request does not say, and the tokens that a prompt and its answer may
    have together."""

    name: str
    defaults: Mapping[str, Any]
    window: int


def response_request(
    raw: Json, served: Served, tenant: str, key: str | None = None, *, draft: bool = False
) -> TurnRequest:
    """A turn for the Responses API; ``key`` as ``TurnRequest.client_key``. Of a ``draft`` the last message is not
    finished: instructions behind it are no part of the conversation yet.

    Raises InvalidJSON, InvalidRequest, ModelNotFound."""
    body, warnings = read(raw, ResponseCreate)
    check_model(body.model, served)
    session_id = _conversation_id(body.conversation)
    previous = check_text(body.previous_response_id or "", "previous_response_id") or None
    instructions = check_text(body.instructions or "", "instructions") or None
    if session_id and previous:
        raise InvalidRequest("send conversation or previous_response_id, not both", param="conversation")
    messages = input_messages(body.input, "input")
    check_says_something(messages, "input")
    results = results_without_calls(body.input, "input")
    if not (session_id or previous):
        check_called(results, ())
    placed = "tail" if draft and body.chatpager.instructions == "append" else body.chatpager.instructions
    if instructions and placed == "append":
        messages.append(NewMessage(role="developer", content=text_content(instructions)))
    if not messages and not (session_id or previous):
        raise InvalidRequest("there is no input", param="input")
    whole = not (session_id or previous) and any(message.role == "assistant" for message in messages)
    stored = body.store is not False
    if session_id and not stored:
        raise InvalidRequest("a conversation's turns are stored; leave store out", param="store")
    warnings = [*_without_effect(body, stored=stored, session_id=session_id), *warnings]
    told = (body.top_logprobs or 0) if LOGPROBS in (body.include or []) else None
    params = sampling_params(body, body.max_output_tokens, served, "max_output_tokens", told)
    offered = body.offered(nested=False)
    form = answer_form(body.text.format if body.text else None, body.chatpager.grammar, "text.format")
    echo = {
        "instructions": body.instructions,
        **({"instructions_placed": placed} if instructions and placed != "head" else {}),
        "metadata": check_metadata(body.metadata),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_output_tokens": body.max_output_tokens,
        "store": stored,
        **({"background": True} if body.background else {}),
        **{name: raw[name] for name in ECHOED if raw.get(name) is not None},
        **({"sent": digest_of(raw)} if key else {}),
        **({"sent_messages": len(messages)} if whole else {}),
        **offered.echo,
        **({"text": form.echo} if form.echo else {}),
    }
    return turn_request(
        "response",
        tenant,
        served,
        Asked(messages, params, offered, form, body.chatpager, keep_seconds(body, body.input, "input")),
        echo,
        [*warnings, *([] if stored or not key else [UNKEPT_KEY])],
        stored=stored,
        generate=body.generate is not False and not body.prewarms,
        session_id=session_id,
        previous_turn_id=previous,
        whole=whole,
        results=results,
        instructions=instructions if placed == "head" else None,
        tail=instructions if placed == "tail" else None,
        title=body.chatpager.session_title if session_id else None,
        compare_with=_compared(body),
        client_key=key if stored else None,
        **({"on_disconnect": "continue"} if body.background else {}),
    )


def _without_effect(body: ResponseCreate, *, stored: bool, session_id: str | None) -> list[str]:
    """Wishes that come to nothing, in words. Raises InvalidRequest of those that cannot be."""
    if body.background and not stored:
        raise InvalidRequest(
            "background: a response that is not stored could not be had; leave store out", param="background"
        )
    if body.background and body.chatpager.on_disconnect == "cancel":
        message = "chatpager.on_disconnect: a response in the background has no reader to wait for"
        raise InvalidRequest(message, param="chatpager.on_disconnect")
    cut = ["truncation: nothing is cut off; an input that does not fit is refused"] if body.truncation == "auto" else []
    if body.text and body.text.verbosity not in (None, "medium"):
        cut.append("text.verbosity: how much is said is the model's; say it in the instructions")
    if any(value is not None for value in (body.reasoning or {}).values()):
        cut.append(f"reasoning: {THINKS_ALONE}")
    if body.top_logprobs and LOGPROBS not in (body.include or []):
        cut.append(f'top_logprobs: logprobs are told with include: ["{LOGPROBS}"]')
    if body.max_tool_calls is not None:
        cut.append("max_tool_calls: it bounds the tools that a server runs; here the client runs them")
    if body.chatpager.instructions != "head" and not body.instructions:
        cut.append("chatpager.instructions: it says where instructions stand, and there are none")
    cut += stream_warnings(body.stream_options, stream=True)
    return [*cut, *body.chatpager.check(stored=stored, session_id=session_id)]


def digest_of(raw: Json) -> str:
    """Of what is asked, however it is to be answered. Raises InvalidJSON: it is nested so deep that it could only just
    be read."""
    asked = {name: value for name, value in raw.items() if name not in HOW_TOLD}
    try:
        return xxhash.xxh3_128_hexdigest(msgspec.json.encode(asked, order="deterministic"))
    except RecursionError as error:
        raise InvalidJSON("the request is nested too deep") from error


def _compared(body: ResponseCreate) -> str | None:
    named = body.prompt_cache_options.comparison_response_id if body.prompt_cache_options else None
    return check_text(named or "", "prompt_cache_options.comparison_response_id") or None


# -- what the wires have in common ------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What a request with messages asks for, on any wire."""

    messages: list[NewMessage]
    params: SamplingParams
    offered: Offered
    form: Form
    wishes: Extensions
    keep_seconds: float


def turn_request(
    kind: TurnKind,
    tenant: str,
    served: Served,
    asked: Asked,
    echo: Json,
    warnings: Sequence[str],
    *,
    stored: bool,
    generate: bool = True,
    whole: bool = True,
    **more: Any,
) -> TurnRequest:
    """``echo`` is what an answer says of the request; ``more`` are fields of the turn's that only one wire has."""
    params = msgspec.structs.replace(asked.params, grammar=asked.form.grammar)
    unkept = asked.wishes.keeps(asked.keep_seconds) and not stored
    parameters = echo if generate else {**echo, "generate": False}
    return TurnRequest(
        id=ID_PREFIXES[kind] + secrets.token_hex(16),
        tenant=tenant,
        kind=kind,
        model=served.name,
        messages=asked.messages,
        params=params if generate else PREPARING,
        whole=whole,
        tools=asked.offered.tools,
        may_call=asked.offered.may_call,
        call_rule=asked.offered.rule,
        grammar_field=asked.form.field,
        stored=stored,
        generate=generate,
        parameters=with_warnings(parameters, warnings, unkept=unkept),
        **{**asked.wishes.wishes(asked.keep_seconds), **more},
    )


def stream_warnings(options: EventOptions | None, *, stream: bool | None) -> list[str]:
    """What of these options comes to nothing, in words. Raises InvalidRequest where there is no stream."""
    if options is None:
        return []
    if not stream:
        raise InvalidRequest("stream_options: only with stream: true", param="stream_options")
    return ["stream_options.include_obfuscation: events are not padded here"] if options.include_obfuscation else []


def with_warnings(parameters: Json, warnings: Sequence[str], *, unkept: bool) -> Json:
    warnings = list(warnings)
    if unkept:
        warnings.append("nothing is kept of a turn with store: false, so its prefix is not pinned either")
    return {**parameters, "warnings": warnings} if warnings else parameters


# -- their parts ------------------------------------------------------------------------------------------------------


def check_model(name: str | None, served: Served) -> None:
    """Raises ModelNotFound."""
    if name is not None and name not in ("", "default", served.name):
        raise ModelNotFound(
            f"model {shown(name)} is not served here; this is {served.name!r}, or 'default'", param="model"
        )


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters."""
    metadata = dict(metadata or {})
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(f"metadata holds at most {MAX_METADATA} pairs", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > 64 or len(value) > 512:
            raise InvalidRequest("metadata is text: keys of up to 64, values of up to 512 characters", param="metadata")
        check_text(key + value, "metadata")
    return metadata


def sampling_params(
    body: Sampling,
    limit: int | None,
    served: Served,
    limit_name: str,
    logprobs: int | None = None,
    *,
    stop_name: str = "stop",
) -> SamplingParams:
    """The request's wishes over the model's own defaults. Raises InvalidRequest."""
    given = {name: getattr(body, name) for name in SAMPLING_FIELDS}
    wishes = {**served.defaults, **{k: v for k, v in given.items() if v is not None}}
    if limit is not None and limit < 1:
        raise InvalidRequest(f"{limit_name} must be at least 1", param=limit_name)
    if limit is not None and limit > served.window:
        message = f"{limit} tokens are more than the context holds, prompt and answer together"
        raise InvalidRequest(f"{limit_name}: {message}; send at most {served.window}", param=limit_name)
    if body.top_k is not None and body.top_k > MAX_INT:
        raise InvalidRequest(f"top_k must be at most {MAX_INT}", param="top_k")
    if body.stop == "":
        raise InvalidRequest(f"{stop_name}: an empty text stands everywhere; leave it out", param=stop_name)
    if isinstance(wishes.get("stop"), list):
        wishes["stop"] = tuple(wishes["stop"])
    try:
        return SamplingParams(max_tokens=limit, logprobs=logprobs, **wishes)
    except InvalidRequest as error:
        if error.param != "stop":
            raise
        raise InvalidRequest(error.message.replace("stop", stop_name, 1), param=stop_name) from error


def _conversation_id(value: str | Json | None) -> str | None:
    if isinstance(value, dict):
        value = value.get("id")
        if not isinstance(value, str):
            raise InvalidRequest("conversation is an id, or an object with one", param="conversation")
    return check_text(value or "", "conversation") or None
