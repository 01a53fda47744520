"""The bodies of ``POST /v1/messages`` and its ``count_tokens``, checked: turns of conversations that are sent whole.

After Anthropic's API reference for Messages (types of the anthropic package 2.14).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidRequest
from chatpager.server.cache_wishes import CacheControl, mark_seconds, marks
from chatpager.server.extensions import Extensions
from chatpager.server.formats import answer_form
from chatpager.server.input_blocks import block_messages
from chatpager.server.input_items import Json, check_says_something
from chatpager.server.reading import read
from chatpager.server.request_bodies import Sampling
from chatpager.server.requests import (
    THINKS_ALONE,
    Asked,
    Served,
    check_metadata,
    check_model,
    sampling_params,
    turn_request,
)
from chatpager.server.tools import Offered, offered_tools
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import NewMessage

MAX_MARKS = 4
"""Anthropic's limit on ``cache_control`` marks."""
CHOICES = {"auto": "auto", "none": "none", "any": "required"}
"""``tool_choice.type`` -> the same in OpenAI's words."""
UNBUILT = {
    "mcp_servers": "tools are run by the client",
    "container": "there are no containers",
}
THINKING = ("enabled", "adaptive", "disabled")
NOT_BOUNDED = f"thinking: {THINKS_ALONE}; budgets are not kept"
EFFORT = f"output_config.effort: {THINKS_ALONE}"
IS_ERROR = "is_error: a template shows the model a tool's text alone; say in it that the tool failed"
NOT_CLEARED = "context_management: nothing is cleared; the conversation is taken as it is sent"


class OutputConfig(msgspec.Struct, frozen=True):
    """``format``: the answer's. ``effort`` is for models that know of it."""

    format: Json | None = None
    effort: str | None = None


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/messages/count_tokens."""

    messages: list[Json]
    model: str | None = None
    system: str | list[Json] | None = None
    tools: list[Json] | None = None
    tool_choice: Json | None = None
    thinking: Json | None = None
    context_management: Json | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessageCreate(TokenCount, frozen=True, kw_only=True):
    """Body of POST /v1/messages. ``store`` is ours, as on the other wires."""

    max_tokens: int
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: Json | None = None
    stream: bool | None = None
    store: bool | None = None
    chatpager: Extensions = Extensions()


def message_request(raw: Json, served: Served, tenant: str) -> tuple[TurnRequest, MessageCreate]:
    """Raises InvalidRequest, ModelNotFound."""
    body, told = read(raw, MessageCreate)
    messages, offered = _conversation(raw, body, served)
    sampling = Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, stop=body.stop_sequences)
    form = answer_form(_format(body), body.chatpager.grammar, "output_config.format")
    params = sampling_params(sampling, body.max_tokens, served, "max_tokens", stop_name="stop_sequences")
    kept, stored = _keep_seconds(body), body.store is not False
    metadata = {name: value for name, value in (body.metadata or {}).items() if value is not None}
    echo = {"metadata": check_metadata(metadata), **offered.echo}
    warnings = [*body.chatpager.check(stored=stored), *_without_effect(body), *told]
    asked = Asked(messages, params, offered, form, body.chatpager, kept)
    return turn_request("message", tenant, served, asked, echo, warnings, stored=stored), body


def count_request(raw: Json, served: Served, tenant: str) -> TurnRequest:
    """A turn whose prompt is only counted. Raises InvalidRequest, ModelNotFound."""
    body, told = read(raw, TokenCount)
    messages, offered = _conversation(raw, body, served)
    return TurnRequest(
        id="",
        tenant=tenant,
        kind="message",
        model=served.name,
        messages=messages,
        params=SamplingParams(),
        whole=True,
        tools=offered.tools,
        stored=False,
        parameters={"warnings": told} if told else {},
    )


def _conversation(raw: Json, body: TokenCount, served: Served) -> tuple[list[NewMessage], Offered]:
    check_model(body.model, served)
    for name, why in UNBUILT.items():
        if raw.get(name):
            raise InvalidRequest(f"{name}: {why}", param=name)
    if body.thinking and body.thinking.get("type") not in THINKING:
        raise InvalidRequest(f"thinking.type: one of {', '.join(THINKING)}", param="thinking")
    messages = block_messages(body.system, body.messages)
    check_says_something(messages, "messages")
    return messages, _offered(body)


def _without_effect(body: MessageCreate) -> list[str]:
    bounded = body.thinking and body.thinking["type"] != "adaptive"
    cleared = body.context_management
    effort = body.output_config and body.output_config.effort
    return [
        *([NOT_BOUNDED] if bounded else []),
        *([EFFORT] if effort else []),
        *([NOT_CLEARED] if cleared else []),
        *_not_told(body.messages),
    ]


def _not_told(messages: Sequence[Json]) -> list[str]:
    contents = (message.get("content") for message in messages)
    blocks = (block for content in contents if isinstance(content, list) for block in content)
    return [IS_ERROR] if any(block.get("type") == "tool_result" and block.get("is_error") for block in blocks) else []


def _format(body: MessageCreate) -> Json | None:
    """As OpenAI has it, whose schemas have a name."""
    wanted = body.output_config.format if body.output_config else None
    return {**wanted, "name": "answer"} if wanted and wanted.get("type") == "json_schema" else wanted


def _offered(body: TokenCount) -> Offered:
    choice = body.tool_choice or {}
    kind = choice.get("type")
    wanted: str | Json | None = None
    if kind == "tool":
        wanted = {"type": "function", "name": choice.get("name")}
    elif choice:
        if not isinstance(kind, str) or kind not in CHOICES:
            raise InvalidRequest(f"tool_choice.type: one of tool, {', '.join(CHOICES)}", param="tool_choice")
        wanted = CHOICES[kind]
    tools = [_function(tool) for tool in body.tools or ()]
    return offered_tools(tools, wanted, choice.get("disable_parallel_tool_use") is not True, nested=False)


def _function(tool: Json) -> Json:
    """A tool of the client's in OpenAI's form; of others only their type, which is refused."""
    kind = tool.get("type") or "custom"
    if kind != "custom":
        return {"type": kind}
    kept: Json = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    return {"type": "function", **kept, "parameters": tool.get("input_schema")}


def _keep_seconds(body: MessageCreate) -> float:
    """The longest time that a mark asks for, for the whole prefix."""
    found = [body.cache_control] if body.cache_control else []
    for param in ("tools", "system", "messages"):
        found += marks(getattr(body, param), param)
    if len(found) > MAX_MARKS:
        raise InvalidRequest(f"cache_control: at most {MAX_MARKS} marks, not {len(found)}", param="cache_control")
    return max(map(mark_seconds, found), default=0.0)
