"""The tools of a request, on either wire: functions, which the client runs itself, and which of them to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from chatpager.engine.call_grammar import CallRule
from chatpager.engine.tool_calls import NAME, Tool, is_too_deep
from chatpager.errors import InvalidRequest, shown
from chatpager.server.input_items import Json
from chatpager.sessions.around import tools_of

MAX_TOOLS = 128
"""OpenAI's limit."""


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
    rule: CallRule | None


def offered_tools(tools: Sequence[Json] | None, choice: str | Json | None, parallel: bool, *, nested: bool) -> Offered:
    """``nested``: as Chat Completions has them, the function in an object of its own.

    Raises:
        InvalidRequest: a tool is no function, or has a wrong form; or a call is forced that there is no tool for.
    """
    chosen = _choice(choice)
    if not tools:
        if chosen.must or chosen.names is not None:
            raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
        return Offered([], False, {}, None)
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: at most {MAX_TOOLS}", param="tools")
    functions = [_function(tool, f"tools[{i}]", nested) for i, tool in enumerate(tools)]
    flat = [{"type": "function", **msgspec.to_builtins(function)} for function in functions]
    echo = {"tools": flat, "tool_choice": chosen.echo, **({} if parallel else {"parallel_tool_calls": False})}
    shown_tools = tools_of(echo)
    if chosen.none:
        return Offered(shown_tools, False, echo, None)
    names = {function.name for function in functions}
    if unknown := sorted((chosen.names or names) - names):
        raise InvalidRequest(f"tool_choice: there is no tool {shown(unknown[0])}", param="tool_choice")
    called = chosen.names if chosen.names is not None else names
    rule = CallRule(
        tools=[tool for tool in shown_tools if tool.name in called],
        must=chosen.must,
        many=parallel and not chosen.one,
        chosen=chosen.must or called != names,
        strict=frozenset(function.name for function in functions if function.strict and function.name in called),
    )
    return Offered(shown_tools, True, echo, rule)


class _Choice(NamedTuple):
    """``echo``: as the Responses API has it. ``names`` None: all tools."""

    echo: str | Json
    none: bool = False
    must: bool = False
    one: bool = False
    names: frozenset[str] | None = None


WORDS = {"auto": _Choice("auto"), "none": _Choice("none", none=True), "required": _Choice("required", must=True)}


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Reference(msgspec.Struct, frozen=True):
    """A function of either wire's form."""

    type: Literal["function"]
    name: str | None = None
    function: _Named | None = None

    @property
    def chosen(self) -> str:
        found = self.name if self.function is None else self.function.name
        if found is None:
            raise InvalidRequest("tool_choice: a function is chosen by its name", param="tool_choice")
        return found


class _Allowed(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Reference], msgspec.Meta(min_length=1)]


def _choice(choice: str | Json | None) -> _Choice:
    """Either wire's words and objects, on either wire. Raises InvalidRequest."""
    if choice is None or isinstance(choice, str):
        if (choice or "auto") not in WORDS or choice == "":
            message = f"tool_choice: {shown(choice or '')} is none of {', '.join(WORDS)}, nor an object"
            raise InvalidRequest(message, param="tool_choice")
        return WORDS[choice or "auto"]
    try:
        if choice.get("type") != "allowed_tools":
            name = msgspec.convert(choice, _Reference).chosen
            return _Choice(_named(name), must=True, one=True, names=frozenset([name]))
        allowed = msgspec.convert(choice.get("allowed_tools", choice), _Allowed)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"tool_choice: {error}", param="tool_choice") from error
    names = [reference.chosen for reference in allowed.tools]
    echo = {"type": "allowed_tools", "mode": allowed.mode, "tools": [_named(name) for name in names]}
    return _Choice(echo, must=allowed.mode == "required", names=frozenset(names))


def _named(name: str) -> Json:
    return {"type": "function", "name": name}


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
