"""What an answer consists of: its text, and the tools that it calls; and how a message's content says so.

An answer's content is its text, if it has any, and then its calls: what a client that sends a conversation back can
know of it. Where they stood in what was generated, the answer's ids say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from chatpager.engine.call_forms import CallParser
from chatpager.engine.tool_calls import FunctionCall
from chatpager.store import Content, text_content


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """Text that was added, never empty."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """A tool that is called; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


class Answer(NamedTuple):
    """``calls_before_text`` of the calls came before its first text."""

    text: str
    calls: tuple[ToolCall, ...]
    calls_before_text: int


class AnswerReader:
    """Text as it was generated in, what it says out. Calls are named after the turn, so whoever reads its text again
    finds the same ones. Without a ``parser`` all is text."""

    def __init__(self, turn_id: str, parser: CallParser | None) -> None:
        self._name = turn_id.partition("_")[2]
        self._parser = parser
        self._calls = 0

    def read(self, text: str, *, last: bool = False) -> list[Delta | ToolCall]:
        if self._parser is None:
            return [Delta(text)] if text else []
        found = self._parser.push(text) + (self._parser.finish() if last else [])
        return [Delta(piece) if isinstance(piece, str) else self._named(piece) for piece in found]

    def _named(self, call: FunctionCall) -> ToolCall:
        self._calls += 1
        return ToolCall(f"call_{self._name}_{self._calls}", call.name, call.arguments)


def answer_of(events: Iterable[object]) -> Answer:
    """What a log's events say, others than these passed over."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    before = 0
    for event in events:
        if isinstance(event, Delta):
            before = before if texts else len(calls)
            texts.append(event.text)
        elif isinstance(event, ToolCall):
            calls.append(event)
    return Answer("".join(texts), tuple(calls), before)


# -- contents ---------------------------------------------------------------------------------------------------------


def answer_content(text: str, calls: Sequence[ToolCall]) -> Content:
    parts = text_content(text) if text or not calls else []
    return [*parts, *({**msgspec.to_builtins(call), "type": "tool_call"} for call in calls)]


def calls_of(content: Content) -> list[ToolCall]:
    return [ToolCall(p["id"], p["name"], p["arguments"]) for p in content if p.get("type") == "tool_call"]


def result_content(call_id: str, text: str) -> Content:
    """Of a message of the role ``tool``."""
    return [{"type": "text", "text": text, "call_id": call_id}]


def call_id_of(content: Content) -> str | None:
    """The call whose result this is."""
    return next((part["call_id"] for part in content if "call_id" in part), None)
