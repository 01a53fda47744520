"""The body of ``POST /v1/completions``, checked: a turn for each prompt, which stands in no conversation."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from chatpager.engine.sampling_params import MAX_LOGPROBS, MAX_N
from chatpager.errors import ContextLengthExceeded, InvalidRequest
from chatpager.server.cache_wishes import PromptCacheOptions
from chatpager.server.extensions import Extensions
from chatpager.server.formats import answer_form
from chatpager.server.input_items import Json, check_text
from chatpager.server.reading import read
from chatpager.server.request_bodies import Sampling, StreamOptions
from chatpager.server.requests import Served, check_model, sampling_params, stream_warnings, with_warnings
from chatpager.sessions.turn_request import TurnRequest

MAX_PROMPTS = 128
USUAL_TOKENS = 16
"""OpenAI's ``max_tokens`` where the request does not say."""
NOT_KEPT = "what a bare prompt leaves in the cache belongs to no conversation, so it is not pinned"

NO_OPTIONS = PromptCacheOptions()

Prompt = str | list[int]


class CompletionCreate(Sampling, frozen=True, kw_only=True):
    """``prompt``: text, a list of texts, token ids, or a list of lists of token ids."""

    prompt: str | list[str | int | list[int]]
    model: str | None = None
    max_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    best_of: int | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chatpager: Extensions = Extensions()

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def completion_requests(raw: Json, served: Served, tenant: str) -> tuple[list[TurnRequest], CompletionCreate]:
    """Raises InvalidRequest, ModelNotFound, ContextLengthExceeded of ids before they are looked at one by one."""
    ids = raw.get("prompt")
    if isinstance(ids, list) and len(ids) > max(served.window, MAX_PROMPTS) and isinstance(ids[0], int):
        raise ContextLengthExceeded(len(ids), 1, served.window)
    body, told = read(raw, CompletionCreate)
    check_model(body.model, served)
    _check_built(body)
    limit = USUAL_TOKENS if body.max_tokens is None else body.max_tokens
    params = sampling_params(body, limit, served, "max_tokens")
    form = answer_form(None, body.chatpager.grammar, "response_format")
    params = msgspec.structs.replace(params, n=body.n or 1, logprobs=body.logprobs, grammar=form.grammar)
    warnings = [*body.chatpager.check(stored=False), *stream_warnings(body.stream_options, stream=body.stream)]
    keeps = (
        body.chatpager.pin
        or body.cache_control
        or body.prompt_cache_retention
        or (body.prompt_cache_options or NO_OPTIONS).ttl
    )
    parameters: dict[str, Any] = with_warnings({}, [*warnings, *([NOT_KEPT] if keeps else []), *told], unkept=False)
    requests = [
        TurnRequest(
            id="cmpl_" + secrets.token_hex(16),
            tenant=tenant,
            kind="completion",
            model=served.name,
            messages=[],
            params=params,
            grammar_field=form.field,
            prompt=prompt,
            stored=False,
            **body.chatpager.wishes(),
            parameters=parameters,
        )
        for prompt in _prompts(body.prompt)
    ]
    return requests, body


def _check_built(body: CompletionCreate) -> None:
    if body.suffix:
        raise InvalidRequest("suffix: filling in between two texts is not built", param="suffix")
    if body.best_of not in (None, body.n or 1):
        raise InvalidRequest("best_of: not built; ask for n answers and choose by their logprobs", param="best_of")
    if body.echo and body.logprobs is not None:
        message = "echo: the prompt's own tokens have no logprobs here; leave out echo, or logprobs"
        raise InvalidRequest(message, param="echo")
    if body.prewarms or (body.prompt_cache_options and body.prompt_cache_options.comparison_response_id):
        raise InvalidRequest("prompt_cache_options: a bare prompt has only a ttl here", param="prompt_cache_options")


def _prompts(prompt: str | Sequence[str | int | Sequence[int]]) -> list[Prompt]:
    """Raises InvalidRequest, naming the place."""
    if isinstance(prompt, str):
        return [_one(prompt, "prompt")]
    if prompt and all(isinstance(part, int) for part in prompt):
        return [[part for part in prompt if isinstance(part, int)]]
    if not 0 < len(prompt) <= MAX_PROMPTS:
        message = f"prompt: {len(prompt)} of them; a request has 1 to {MAX_PROMPTS}"
        raise InvalidRequest(message, param="prompt")
    return [_one(part, f"prompt[{i}]") for i, part in enumerate(prompt)]


def _one(part: str | int | Sequence[int], place: str) -> Prompt:
    if part in ("", []):
        raise InvalidRequest(f"{place}: it is empty; say something", param=place)
    if isinstance(part, str):
        return check_text(part, place)
    if isinstance(part, int):
        raise InvalidRequest(f"{place}: token ids do not stand beside texts and lists", param=place)
    return list(part)
