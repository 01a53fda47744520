"""What is left of a stored message when one of its items is taken away."""

from __future__ import annotations

from chatpager.server import wire
from chatpager.sessions.answers import ToolCall, answer_content, calls_of
from chatpager.store import Message, NewMessage, text_of


def without(message: Message, item: wire.AnyItem) -> NewMessage | None:
    """None where nothing is left. The ids that were generated tell all of an answer, so what is left of it stands in a
    prompt as its text is rendered."""
    if message.role != "assistant":
        return None
    text, calls = text_of(message.content), calls_of(message.content)
    match item:
        case wire.FunctionCallItem(call_id=gone):
            calls = [call for call in calls if call.id != gone]
        case wire.Item():
            text = ""
    return _answer(message, text, calls) if text or calls else None


def _answer(message: Message, text: str, calls: list[ToolCall]) -> NewMessage:
    return NewMessage(role=message.role, content=answer_content(text, calls), status=message.status)
