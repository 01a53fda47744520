"""The items of an input, as the store takes them: messages with text, calls of tools, and what came of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chatpager.errors import InvalidRequest, shown
from chatpager.sessions.answers import ToolCall, answer_content, result_content
from chatpager.store import NewMessage, text_content

Json = dict[str, Any]

MAX_ITEMS = 2048
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("text", "input_text", "output_text")


def input_messages(value: str | Sequence[Json] | None, param: str) -> list[NewMessage]:
    """Text, or items. Of either wire: an answer's calls are items of their own, or stand in its message. What was
    thought is passed over. Raises InvalidRequest, naming the place."""
    if value is None:
        return []
    if isinstance(value, str):
        return [NewMessage(role="user", content=text_content(check_text(value, param)))]
    if len(value) > MAX_ITEMS:
        raise InvalidRequest(f"{param} holds at most {MAX_ITEMS} items", param=param)
    messages: list[NewMessage] = []
    for i, item in enumerate(value):
        if item.get("type") == "reasoning":
            continue  # what was thought before an answer of ours is known; nobody else's stands in a prompt
        message = _message(item, f"{param}[{i}]")
        if item.get("type") == "function_call" and messages and messages[-1].role == "assistant":
            before = messages.pop()
            message = msgspec.structs.replace(
                before, content=[*filter(_says_something, before.content), *message.content]
            )
        messages.append(message)
    return messages


def results_without_calls(items: str | Sequence[Json] | None, param: str) -> dict[str, str]:
    """Of items that were read, the fields that name a call which does not stand before its result, by its id."""
    called: set[str] = set()
    found: dict[str, str] = {}
    for i, item in enumerate(items if isinstance(items, list) else ()):
        name = None
        match item.get("type", "message"):
            case "function_call":
                called.add(item["call_id"])
            case "function_call_output":
                name = "call_id"
            case "message" if item.get("role") == "tool":
                name = "tool_call_id"
            case "message":
                called |= {call["id"] for call in item.get("tool_calls") or ()}
        if name is not None and item[name] not in called:
            found.setdefault(item[name], f"{param}[{i}].{name}")
    return found


def check_says_something(messages: Sequence[NewMessage], param: str) -> None:
    """Raises InvalidRequest: all of them are empty."""
    if messages and not any(_says_something(part) or "call_id" in part for m in messages for part in m.content):
        raise InvalidRequest(f"{param}: it is empty; say something", param=param)


def _says_something(part: Json) -> bool:
    return part.get("text") != ""


def _message(item: Json, place: str) -> NewMessage:
    kind = item.get("type", "message")
    if kind == "function_call":
        return NewMessage(role="assistant", content=answer_content("", [_call(item, item.get("call_id"), place)]))
    if kind == "function_call_output":
        return _result(item, "call_id", "output", place)
    if kind != "message":
        name = shown(kind) if isinstance(kind, str) else "another kind"
        message = f"{place}: items of type {name} are not built yet, only messages and function calls"
        raise InvalidRequest(message, param=f"{place}.type")
    if item.get("function_call"):
        raise InvalidRequest(f"{place}: not built; send tool_calls", param=f"{place}.function_call")
    role = item.get("role")
    if role == "tool":
        return _result(item, "tool_call_id", "content", place)
    if role not in ROLES:
        raise InvalidRequest(f"{place}: role is one of {', '.join(ROLES)}", param=f"{place}.role")
    calls = _calls(item["tool_calls"], f"{place}.tool_calls") if item.get("tool_calls") else []
    if calls and role != "assistant":
        raise InvalidRequest(f"{place}: only an assistant calls tools", param=f"{place}.tool_calls")
    said = item.get("content")
    text = "" if said is None and calls else _text(said, f"{place}.content", generated=role == "assistant")
    return NewMessage(role=role, content=answer_content(text, calls))


def _calls(value: Any, place: str) -> list[ToolCall]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{place}: a list of calls", param=place)
    return [_nested_call(call, f"{place}[{i}]") for i, call in enumerate(value)]


def _nested_call(call: Any, place: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise InvalidRequest(f"{place}: only calls of functions", param=place)
    return _call(function, call.get("id"), place)


def _call(function: Json, call_id: Any, place: str) -> ToolCall:
    return ToolCall(
        _field(call_id, "the call's id", place),
        _field(function.get("name"), "name", place),
        _field(function.get("arguments"), "arguments", place, generated=True),
    )


def _field(value: Any, name: str, place: str, *, generated: bool = False) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{place}: {name} is missing", param=place)
    return check_text(value, place, generated=generated)


def _result(item: Json, id_name: str, text_name: str, place: str) -> NewMessage:
    call_id = item.get(id_name)
    if not isinstance(call_id, str) or not call_id:
        raise InvalidRequest(f"{place}: {id_name} is missing", param=f"{place}.{id_name}")
    text = _text(item.get(text_name), f"{place}.{text_name}")
    return NewMessage(role="tool", content=result_content(check_text(call_id, f"{place}.{id_name}"), text))


def _text(content: Any, place: str, *, generated: bool = False) -> str:
    if isinstance(content, str):
        return check_text(content, place, generated=generated)
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}: text, or a list of parts", param=place)
    if len(content) > MAX_ITEMS:
        raise InvalidRequest(f"{place} holds at most {MAX_ITEMS} parts", param=place)
    return "".join(_part(part, f"{place}[{i}]", generated) for i, part in enumerate(content))


def _part(part: Any, place: str, generated: bool) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in TEXT_PARTS:
        raise InvalidRequest(f"{place}: only parts of type {', '.join(TEXT_PARTS)}", param=place)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{place}: text is missing", param=f"{place}.text")
    return check_text(text, place, generated=generated)


def check_text(text: str, place: str, *, generated: bool = False) -> str:
    """``generated``: a model may have said it, which may be anything; it must not keep the conversation from going on.

    Raises InvalidRequest."""
    if "\0" in text and not generated:
        raise InvalidRequest(f"{place}: holds a NUL character", param=place)
    return text
