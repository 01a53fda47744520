"""The tools of a request, on either wire: functions, which the client runs itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from chatpager.engine.tool_calls import NAME, Tool, is_too_deep
from chatpager.errors import InvalidRequest
from chatpager.server.input_items import Json, shown
from chatpager.sessions.around import tools_of

MAX_TOOLS = 128
"""OpenAI's limit."""
CHOICES = ("auto", "none")


class Function(msgspec.Struct, frozen=True):
    """As OpenAI's Responses API has it."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Offered(NamedTuple):
    """``echo`` is what a response says of them, and what is stored. Unless it ``may_call`` them, the model is shown the
    tools all the same: a conversation's prefix stays as it is."""

    tools: list[Tool]
    may_call: bool
    echo: Json
    warnings: list[str]


def offered_tools(tools: Sequence[Json] | None, choice: str | Json | None, parallel: bool, *, nested: bool) -> Offered:
    """``nested``: as Chat Completions has them, the function in an object of its own.

    Raises:
        InvalidRequest: a tool is no function, or has a wrong form; or a call is to be forced.
    """
    if choice is not None and choice not in CHOICES:
        wanted = shown(choice) if isinstance(choice, str) else "a certain tool"
        message = f"tool_choice: {wanted} is not built yet: calls cannot be forced, only {' or '.join(CHOICES)}"
        raise InvalidRequest(message, param="tool_choice")
    if not tools:
        return Offered([], False, {}, [])
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: at most {MAX_TOOLS}", param="tools")
    functions = [_function(tool, f"tools[{i}]", nested) for i, tool in enumerate(tools)]
    flat = [{"type": "function", **msgspec.to_builtins(function)} for function in functions]
    echo = {"tools": flat, "tool_choice": choice or "auto"}
    warnings = [] if parallel else ["parallel_tool_calls: false is not enforced: the model may call several tools"]
    if any(function.strict for function in functions):
        warnings.append("strict is not enforced: arguments are JSON, but may be other than the schema says")
    return Offered(tools_of(echo), choice != "none", echo, warnings)


def _function(tool: Json, place: str, nested: bool) -> Function:
    kind = tool.get("type")
    if kind != "function":
        name = shown(kind) if isinstance(kind, str) else "another type"
        raise InvalidRequest(f"{place}: tools of type {name} are not built yet, only functions", param="tools")
    if is_too_deep(tool):
        raise InvalidRequest(f"{place}: its schema is nested too deeply", param="tools")
    try:
        function = msgspec.convert(tool.get("function") if nested else tool, Function)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{place}: {error}", param="tools") from error
    if not NAME.fullmatch(function.name):
        message = f"{place}: a name has 1 to 64 of the characters a-z, A-Z, 0-9, _ and -"
        raise InvalidRequest(message, param="tools")
    return function
