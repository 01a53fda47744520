"""Anthropic's messages and their content blocks, as the store takes them: the system's text, what people and tools say,
answers with their calls."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import msgspec

from chatpager.engine.tool_calls import is_too_deep
from chatpager.errors import InvalidRequest, shown
from chatpager.server.input_items import MAX_ITEMS, Json, check_text
from chatpager.sessions.answers import ToolCall, answer_content, calls_of, result_content
from chatpager.sessions.history import not_called
from chatpager.store import NewMessage, text_content

BETWEEN = "\n\n"
"""Blocks of text that people write stand apart; those of an answer are one text, as it was generated."""
NOT_SHOWN = ("thinking", "redacted_thinking")
"""Blocks of an answer that are no part of what it says."""


def block_messages(system: str | Sequence[Json] | None, messages: Sequence[Json]) -> list[NewMessage]:
    """Raises InvalidRequest, naming the place."""
    if not 0 < len(messages) <= MAX_ITEMS:
        raise InvalidRequest(f"messages holds 1 to {MAX_ITEMS} of them", param="messages")
    said: list[NewMessage] = []
    called: set[str] = set()
    if system:
        said.append(NewMessage(role="system", content=text_content(_text(system, "system"))))
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        match message.get("role"):
            case "user":
                said += _user(message.get("content"), f"{place}.content", called)
            case "assistant":
                said.append(_assistant(message.get("content"), f"{place}.content"))
                called |= {call.id for call in calls_of(said[-1].content)}
            case _:
                raise InvalidRequest(f"{place}: role is user or assistant", param=f"{place}.role")
    if said[-1].role == "assistant":
        problem = "messages: the last one is the assistant's; going on with its words is not built"
        raise InvalidRequest(problem, param="messages")
    return said


def _user(content: Any, place: str, called: Set[str]) -> list[NewMessage]:
    """What came of tools, which were ``called`` before, is a message of its own, and so is the text before and behind
    it."""
    messages: list[NewMessage] = []
    texts: list[str] = []

    def speak() -> None:
        if texts:
            messages.append(NewMessage(role="user", content=text_content(BETWEEN.join(texts))))
            texts.clear()

    for block, at in _blocks(content, place):
        if block.get("type") == "tool_result":
            speak()
            call_id = _field(block, "tool_use_id", at)
            if call_id not in called:
                raise not_called(call_id, f"{at}.tool_use_id")
            text = _text(block.get("content") or "", f"{at}.content")
            messages.append(NewMessage(role="tool", content=result_content(call_id, text)))
        else:
            texts.append(_said(block, at))
    speak()
    if not messages:
        raise InvalidRequest(f"{place}: it is empty", param=place)
    return messages


def _assistant(content: Any, place: str) -> NewMessage:
    texts: list[str] = []
    calls: list[ToolCall] = []
    for block, at in _blocks(content, place):
        if block.get("type") == "tool_use":
            calls.append(_call(block, at))
        elif block.get("type") not in NOT_SHOWN:
            texts.append(_said(block, at, generated=True))
    return NewMessage(role="assistant", content=answer_content("".join(texts), calls))


def _call(block: Json, place: str) -> ToolCall:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict) or is_too_deep(arguments):
        message = f"{place}: input is an object, and not too deeply nested"
        raise InvalidRequest(message, param=f"{place}.input")
    text = check_text(msgspec.json.encode(arguments).decode(), place)
    return ToolCall(_field(block, "id", place), _field(block, "name", place), text)


def _text(content: Any, place: str) -> str:
    """Text, or blocks of nothing but text."""
    return BETWEEN.join(_said(block, at) for block, at in _blocks(content, place))


def _blocks(content: Any, place: str) -> list[tuple[Json, str]]:
    """The blocks of a content, and where each stands."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, place)]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequest(f"{place}: text, or a list of blocks", param=place)
    if len(content) > MAX_ITEMS:
        raise InvalidRequest(f"{place} holds at most {MAX_ITEMS} blocks", param=place)
    return [(block, f"{place}[{i}]") for i, block in enumerate(content)]


def _said(block: Json, place: str, *, generated: bool = False) -> str:
    kind = block.get("type")
    if kind != "text":
        name = shown(kind) if isinstance(kind, str) else "another type"
        message = f"{place}: blocks of type {name} cannot stand here; text, tool_use and tool_result are built"
        raise InvalidRequest(message, param=place)
    return _field(block, "text", place, generated=generated)


def _field(block: Json, name: str, place: str, *, generated: bool = False) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{place}: {name} is missing", param=f"{place}.{name}")
    return check_text(value, f"{place}.{name}", generated=generated)
