"""The items of an input: messages with text, as the store takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatpager.errors import InvalidRequest
from chatpager.store import NewMessage, text_content

Json = dict[str, Any]

MAX_ITEMS = 2048
MAX_SHOWN = 80
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("text", "input_text", "output_text")


def input_messages(value: str | Sequence[Json] | None, param: str) -> list[NewMessage]:
    """Text, or items that are messages with text. Raises InvalidRequest, naming the place."""
    if value is None:
        return []
    if isinstance(value, str):
        return [NewMessage(role="user", content=text_content(check_text(value, param)))]
    if len(value) > MAX_ITEMS:
        raise InvalidRequest(f"{param} holds at most {MAX_ITEMS} items", param=param)
    return [_message(item, f"{param}[{i}]") for i, item in enumerate(value)]


def _message(item: Json, place: str) -> NewMessage:
    kind = item.get("type", "message")
    if kind != "message":
        name = shown(kind) if isinstance(kind, str) else "another kind"
        raise InvalidRequest(f"{place}: items of type {name} are not built yet, only messages", param=f"{place}.type")
    for name in ("tool_calls", "function_call"):
        if item.get(name):
            raise InvalidRequest(f"{place}: tool calling is not built yet", param=f"{place}.{name}")
    role = item.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{place}: role is one of {', '.join(ROLES)}", param=f"{place}.role")
    return NewMessage(role=role, content=text_content(_text(item.get("content"), f"{place}.content")))


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return check_text(content, place)
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}: text, or a list of parts", param=place)
    return "".join(_part(part, f"{place}[{i}]") for i, part in enumerate(content))


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in TEXT_PARTS:
        raise InvalidRequest(f"{place}: only parts of type {', '.join(TEXT_PARTS)}", param=place)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{place}: text is missing", param=f"{place}.text")
    return check_text(text, place)


def check_text(text: str, place: str) -> str:
    if "\0" in text:
        raise InvalidRequest(f"{place}: holds a NUL character", param=place)
    return text


def shown(text: str) -> str:
    """What a client sent, for an error's message: quoted, and cut where it is long."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")
