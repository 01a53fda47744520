"""A conversation's messages as its items: what was said, thought and called, an answer with its turn's account."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from chatpager.server import wire
from chatpager.server.encode_items import call_item
from chatpager.server.encode_response import (
    SHOWN_AS,
    answer_item,
    error_details,
    item_status,
    output_items,
    usage_object,
)
from chatpager.sessions.answers import Answer, call_id_of, calls_of
from chatpager.sessions.turn import LiveTurn
from chatpager.store import Message, MessageHash, NewMessage, Turn, text_of

UNKNOWN_YET = dict.fromkeys(("usage", "cache", "timings", "error"))


def message_items(message: Message, turn: Turn | None = None, answer: Answer | None = None) -> list[wire.AnyItem]:
    """``turn``: that gave it, where that is known. ``answer``: what it said, where it is more than the message
    tells."""
    if turn is not None:
        calls = calls_of(message.content)
        told = answer or Answer(text_of(message.content), tuple(calls), 0)
        return _answer_items(turn.id, told, turn.status, _account(turn))
    return said_items(message.hash, message, answer)


def unanswered_items(message: Message, turn: Turn) -> list[wire.AnyItem]:
    """Of what was said to a ``turn`` that ended before it had said anything."""
    items = said_items(message.hash, message)
    return [
        msgspec.structs.replace(item, chatpager=_account(turn)) if isinstance(item, wire.InputItem) else item
        for item in items
    ]


def _account(turn: Turn) -> dict[str, Any]:
    return {
        "response_id": turn.id,
        "state": turn.status,
        "usage": usage_object(turn.usage) if turn.usage else None,
        "cache": turn.receipt,
        "timings": turn.timings,
        "error": error_details(turn.status, turn.error),
    }


def said_items(hash: MessageHash, message: Message | NewMessage, answer: Answer | None = None) -> list[wire.AnyItem]:
    """Of a message that no turn gave, stored or about to be as ``hash``."""
    text, calls = text_of(message.content), calls_of(message.content)
    if (call_id := call_id_of(message.content)) is not None:
        name = "fco_" + hash.partition(":")[2]
        return [wire.FunctionOutputItem(id=name, status="completed", call_id=call_id, output=text)]
    name, status = "msg_" + hash.partition(":")[2], item_status(SHOWN_AS[message.status])
    if message.role != "assistant":
        return [wire.InputItem(id=name, status=status, role=message.role, content=[wire.InputText(text)])]
    if answer is not None:
        return [*output_items(name, answer, status)]
    part = wire.TextPart("output_text", text)
    said = wire.Item(id=name, status=status, role=message.role, content=[part])
    return [*([said] if text or not calls else []), *map(call_item, calls)]


def live_items(turn: LiveTurn) -> list[wire.AnyItem]:
    """A running answer, as far as it was shown."""
    ours = {"response_id": turn.id, "state": "in_progress", **UNKNOWN_YET}
    return _answer_items(turn.id, turn.stream.answer, "in_progress", ours)


def _answer_items(turn_id: str, answer: Answer, state: str, ours: dict[str, Any]) -> list[wire.AnyItem]:
    """The items of the response's output. What is to be said of the turn its message says, or else its first call; an
    answer that only thought has an empty message for that."""
    status = item_status(SHOWN_AS[state])
    items: list[wire.AnyItem] = [*output_items(turn_id, answer, status)]
    if not (answer.text or answer.calls) and answer.reasoning:
        items.append(answer_item(turn_id, "", status))
    messages = (place for place, item in enumerate(items) if isinstance(item, wire.Item))
    calls = (place for place, item in enumerate(items) if isinstance(item, wire.FunctionCallItem))
    place = next(chain(messages, calls))
    items[place] = msgspec.structs.replace(items[place], chatpager=ours)
    return items
