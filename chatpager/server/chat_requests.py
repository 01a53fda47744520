"""The body of ``POST /v1/chat/completions``, checked: a turn of a conversation that is sent whole."""

from __future__ import annotations

import msgspec

from chatpager.errors import InvalidRequest
from chatpager.server.cache_wishes import keep_seconds
from chatpager.server.formats import answer_form
from chatpager.server.input_items import Json, check_says_something, input_messages, results_without_calls
from chatpager.server.reading import read
from chatpager.server.request_bodies import ChatCreate
from chatpager.server.requests import (
    THINKS_ALONE,
    Asked,
    Served,
    check_metadata,
    check_model,
    sampling_params,
    stream_warnings,
    turn_request,
)
from chatpager.sessions.history import check_called
from chatpager.sessions.turn_request import TurnRequest


def chat_request(raw: Json, served: Served, tenant: str) -> tuple[TurnRequest, ChatCreate]:
    """A turn for Chat Completions, which sends the whole conversation. Raises InvalidRequest, ModelNotFound."""
    body, warnings = read(raw, ChatCreate)
    check_model(body.model, served)
    messages = input_messages(body.messages, "messages")
    if not messages:
        raise InvalidRequest("there are no messages", param="messages")
    check_says_something(messages, "messages")
    check_called(results_without_calls(body.messages, "messages"), ())
    if body.prompt_cache_options and body.prompt_cache_options.comparison_response_id:
        param = "prompt_cache_options.comparison_response_id"
        raise InvalidRequest("diagnostics are told on /v1/responses only", param=param)
    limit_name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs: send logprobs: true with it", param="top_logprobs")
    told = (body.top_logprobs or 0) if body.logprobs else None
    params = sampling_params(body, getattr(body, limit_name), served, limit_name, told)
    generate = body.generate is not False and not body.prewarms
    n = (body.n or 1) if generate else 1
    offered = body.offered(nested=True)
    form = answer_form(body.response_format, body.chatpager.grammar, "response_format")
    stored = body.store is not False
    thinks = [f"reasoning_effort: {THINKS_ALONE}"] if body.reasoning_effort is not None else []
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        warnings = ["max_tokens: max_completion_tokens stands beside it, and counts", *warnings]
    of_stream = stream_warnings(body.stream_options, stream=body.stream)
    warnings = [*body.chatpager.check(stored=stored), *thinks, *of_stream, *warnings]
    echo: Json = {"metadata": check_metadata(body.metadata), **({"n": n} if n > 1 else {}), **offered.echo}
    params = msgspec.structs.replace(params, n=n)
    kept = keep_seconds(body, body.messages, "messages")
    asked = Asked(messages, params, offered, form, body.chatpager, kept)
    return turn_request("chat", tenant, served, asked, echo, warnings, stored=stored, generate=generate), body
